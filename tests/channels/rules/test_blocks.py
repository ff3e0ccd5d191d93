"""Blocks of well-known networks whose channels pass through several kinds of operation at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jstc.runs.stages.train import count


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


class Blur(nn.Module):
    """A fixed kernel for each channel, or one that is expanded to all."""

    def __init__(self, channels: int | None) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.channels = channels
        self.register_buffer("kernel", (line[:, None] * line).repeat(channels or 1, 1, 1, 1))

    def forward(self, x):
        kernel = self.kernel if self.channels else self.kernel.expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), kernel, stride=2, groups=x.shape[1])


@pytest.mark.parametrize("channels", [16, None])
def test_blurring_before_a_stride(toy, sandwich, channels):
    net = sandwich(toy, lambda net, x: net.blur(x), blur=Blur(channels))
    assert net.widths == {"stem": 16}
    net.require_exact()
    kernel = net.channels.slice(net.model, net.plan(0)).blur.kernel
    assert len(kernel) == (len(net.plan(0).kept["stem"]) if channels else 1)


class Standardised(nn.Conv2d):
    """Weights of zero mean and unit variance for each output channel."""

    def forward(self, x):
        gain = (self.gain * 0.5).view(-1) if hasattr(self, "gain") else None
        weight = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(weight, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6)
        weight = weight.reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@pytest.mark.parametrize("gain", [False, True])
def test_standardised_weights(toy, sandwich, gain):
    layer = Standardised(16, 12, 3, padding=1)
    if gain:
        layer.gain = nn.Parameter(torch.rand(12, 1, 1, 1) + 0.5)
    net = sandwich(toy, lambda net, x: net.layer(x), layer=layer, last=12)
    assert net.widths == {"stem": 16, "layer": 12}
    assert list(net.channels.inexact) == ["stem"]  # what is left out changes the mean over the inputs
    small = net.channels.slice(net.model, net.plan(0))
    assert count(small, net.inputs[0][:1]) == (
        net.channels.cost(net.plan(0)).flops,
        net.channels.cost(net.plan(0)).params,
    )


def test_weights_are_standardised_by_hand(toy, sandwich):
    def forward(net, x):
        variance, mean = torch.var_mean(net.w, (1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, (net.w - mean) / (variance + 1e-5).sqrt(), padding=1)

    net = sandwich(toy, forward, w=nn.Parameter(torch.randn(12, 16, 3, 3)), last=12)
    assert net.widths == {"stem": 16, "w": 12}
    assert net.channels.inexact == {"stem": "var_mean over the channels"}


def selective(net, x):
    """Two kernels, weighted for each channel by what their sum says."""
    both = torch.stack([net.a(x), net.b(x)], 1)
    weights = net.expand(net.squeeze(both.sum(1).mean((2, 3), keepdim=True)).relu())
    weights = weights.view(len(x), 2, weights.shape[1] // 2, 1, 1).softmax(1)
    return (both * weights).sum(1)


def split_attention(net, x):
    """Radix two of a grouped convolution."""
    x = net.wide(x)
    n, c, h, w = x.shape
    both = x.reshape(n, 2, c // 2, h, w)
    weights = net.expand(net.squeeze(both.sum(1).mean((2, 3), keepdim=True)).relu())
    weights = weights.view(n, 1, 2, -1).transpose(1, 2).softmax(1).reshape(n, -1, 1, 1)
    return (both * weights.reshape(n, 2, c // 2, 1, 1)).sum(1).contiguous()


def neighbours(net, x):
    """Efficient channel attention."""
    y = x.mean((2, 3)).view(len(x), 1, -1)
    return x * net.slide(y).sigmoid().view(len(x), -1, 1, 1).expand_as(x)


@pytest.mark.parametrize("kind", ["selective", "split attention"])
def test_attention_to_branches(toy, sandwich, kind):
    net = sandwich(
        toy,
        selective if kind == "selective" else split_attention,
        a=conv(16, 16),
        b=conv(16, 16, 5),
        wide=conv(16, 32, groups=2),
        squeeze=conv(16, 6, 1),
        expand=conv(6, 32, 1),
    )
    stem = 16 if kind == "selective" else 8
    inner = {"a": 16} if kind == "selective" else {"wide": 16}
    assert net.widths == {"stem": stem, **inner, "squeeze": 6}
    net.require_exact()


def test_attention_to_neighbouring_channels(toy, sandwich):
    net = sandwich(toy, neighbours, slide=nn.Conv1d(1, 1, 3, padding=1, bias=False))
    assert net.widths == {"stem": 16}
    assert net.channels.inexact == {"stem": "a convolution slides over the channels"}
    small = net.channels.slice(net.model, net.plan(0))
    assert count(small, net.inputs[0][:1])[0] == net.channels.cost(net.plan(0)).flops


def test_mixture_of_kernels(toy, sandwich):
    """A convolution whose kernel is a weighted sum: its flattened weights can't be followed."""

    def forward(net, x):
        weights = net.route(x.mean((2, 3))).sigmoid() @ net.kernels
        weights = weights.view(len(x) * 16, 16, 3, 3)
        out = F.conv2d(x.reshape(1, -1, 8, 8), weights, padding=1, groups=len(x))
        return out.view(len(x), 16, 8, 8)

    net = sandwich(toy, forward, route=nn.Linear(16, 4), kernels=nn.Parameter(torch.randn(4, 16 * 16 * 9)))
    assert "kernels" not in net.widths
    net.require_exact() if net.widths else None


def test_same_padding(toy, sandwich):
    net = sandwich(toy, lambda net, x: net.same(x), same=nn.Conv2d(16, 12, 3, padding="same"), last=12)
    assert net.widths == {"stem": 16, "same": 12}
    net.require_exact()
    small = net.channels.slice(net.model, net.plan(0))
    assert count(small, net.inputs[0][:1])[0] == net.channels.cost(net.plan(0)).flops
