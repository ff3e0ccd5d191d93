"""Complex numbers and Fourier transforms: channels pass where only the space is transformed."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def filtered(net, x):
    """A learned filter of frequencies, as GFNet has it."""
    weight = torch.view_as_complex(net.w)
    return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * weight, s=x.shape[-2:], norm="ortho")


def test_a_filter_of_frequencies(toy, sandwich):
    net = sandwich(toy, filtered, w=nn.Parameter(torch.randn(16, 8, 5, 2)))
    assert net.widths == {"stem": 16}
    assert not net.channels.unknown_operations
    net.require_exact()


EXACT = {
    "parts": lambda x: torch.fft.fft(x, dim=3).real + torch.view_as_real(torch.fft.fft2(x))[..., 1],
    "turned": lambda x: torch.fft.ifft(torch.polar(x, x.tanh()).conj(), dim=2).abs(),
    "complex": lambda x: torch.complex(x, x.sigmoid()).imag.flip(3),
}


@pytest.mark.parametrize("kind", EXACT)
def test_complex_numbers_of_channels(toy, sandwich, kind):
    net = sandwich(toy, lambda net, x: EXACT[kind](x))
    assert net.widths == {"stem": 16}
    net.require_exact()


HELD = {
    "transform": (lambda x: torch.fft.fftn(x, dim=(1, 2)).abs(), "a Fourier transform over the channels"),
    "pairs": (
        lambda x: (
            torch.view_as_complex(x.movedim(1, -1).unflatten(-1, (-1, 2)).contiguous()).abs().movedim(-1, 1)
        ),
        "channels are the parts of complex numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HELD)
def test_transforms_over_channels_hold_them(toy, sandwich, kind):
    function, reason = HELD[kind]
    net = sandwich(toy, lambda net, x: function(x), last=16 if kind == "transform" else 8)
    if kind == "transform":
        assert net.widths == {}
        assert net.reasons["stem", 0] == reason
    else:  # one of each pair stays with the other
        assert net.widths == {"stem": 8}
        net.require_exact()
