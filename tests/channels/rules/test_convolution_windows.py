"""Sliding windows and resampling: channels pass, places to sample from stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jstc.runs.stages.train import count


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def windows(x, size, step):
    """Each window's mean, as local attention takes its keys."""
    return x.unfold(2, size, step).unfold(3, size, step).mean((-2, -1))


def outlook(net, x):
    """Neighbours weighted by what the pixel says of them, as VOLO has it."""
    n, c, h, w = x.shape
    weights = net.weights(x.permute(0, 2, 3, 1)).softmax(-1).view(n, 1, 9, h * w)
    return (F.unfold(x, 3, padding=1).view(n, c, 9, h * w) * weights).sum(2).view(n, c, h, w)


def warped(x):
    theta = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.8, 0.1]], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(theta.expand(len(x), 2, 3), [len(x), 1, 6, 6], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


SPACE = {
    "unfold": lambda net, x: windows(x, 3, 2),
    "im2col": lambda net, x: F.unfold(x, 3, padding=1).unflatten(1, (-1, 9)).amax(2).unflatten(2, (8, 8)),
    "outlook": outlook,
    "fold": lambda net, x: F.fold(F.unfold(x, 2, stride=2), 8, 2, stride=2) + F.fold(F.unfold(x, 3), 8, 3),
    "nearest": lambda net, x: F.interpolate(F.interpolate(x.flatten(2), 32), 64).unflatten(2, (8, 8)),
    "linear": lambda net, x: F.interpolate(x.flatten(2), 36, mode="linear").unflatten(2, (6, 6)),
    "trilinear": lambda net, x: F.interpolate(x[:, :, None], scale_factor=2, mode="trilinear")[:, :, 1],
    "nearest 3d": lambda net, x: F.interpolate(x[:, :, None], scale_factor=2)[:, :, 0],
    "exact": lambda net, x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "maxima 3d": lambda net, x: F.adaptive_max_pool3d(x[:, :, None], (1, 4, 4))[:, :, 0],
    "maxima 1d": lambda net, x: F.adaptive_max_pool1d(x.flatten(2), 16).unflatten(2, (4, 4)),
    "maxima and back": lambda net, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "reflection": lambda net, x: F.pad(F.pad(x, (1, 2, 0, 1), mode="reflect"), (1, 1, 1, 1), mode="circular"),
    "replication 3d": lambda net, x: F.pad(x[:, :, None], (1, 1, 2, 0, 0, 0), mode="replicate")[:, :, 0],
    "quarter turn": lambda net, x: torch.rot90(x, 1, (2, 3)),
    "warped": lambda net, x: warped(x),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPACE)
def test_windows_and_sizes_of_space_leave_channels_alone(toy, sandwich, kind):
    net = sandwich(toy, SPACE[kind], weights=nn.Linear(16, 9))
    assert net.widths == {"stem": 16}
    assert not net.channels.unknown_operations
    net.require_exact()


def test_neighbours_as_channels(toy, sandwich):
    """A convolution written as a matrix product: nine columns of its weight for each channel."""
    net = sandwich(
        toy,
        lambda net, x: (
            net.mix(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))
        ),
        mix=nn.Linear(144, 12),
        last=12,
    )
    assert net.widths == {"stem": 16, "mix": 12}
    net.require_exact()


HELD = {
    "windows": (lambda x: x.unfold(1, 3, 1).mean(-1), 14, "windows slide over the channels"),
    "sampled": (
        lambda x: F.grid_sample(
            x.transpose(1, 2), x[:, :2].permute(0, 2, 3, 1), align_corners=False
        ).transpose(1, 2),
        8,
        "neighbouring channels are pooled or resized",
    ),
    "turned": (lambda x: x[..., :1].expand(-1, -1, -1, 16).rot90(1, (1, 3)), 16, "channels are turned"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HELD)
def test_windows_over_channels_hold_them(toy, sandwich, kind):
    function, last, reason = HELD[kind]
    net = sandwich(toy, lambda net, x: function(x), last=last)
    assert net.widths == {}
    assert net.reasons["stem", 0] == reason


def test_sampling_is_counted_as_fvcore_does(toy, sandwich):
    net = sandwich(toy, lambda net, x: warped(x))
    plan = net.plan(0)
    small = net.channels.slice(net.model, plan)
    assert net.channels.cost(plan).flops == count(small, net.inputs[0][:1])[0]
