"""Networks that no package has: keyword spotting, separation of speech, auto-encoders, super-resolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.beyond.case import Case, Inputs, Make, classes, images, noise

__all__ = ["NETWORKS"]


class KeywordSpotter(nn.Module):
    """Depthwise separable convolutions over the frames of a recording [N, 40, T] (DS-CNN, Zhang 2017)."""

    def __init__(self, width: int = 48, words: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(40, width, 9, stride=2, padding=4, bias=False)]
        for _ in range(4):
            layers += [nn.BatchNorm1d(width), nn.ReLU()]
            layers += [nn.Conv1d(width, width, 5, padding=2, groups=width, bias=False)]
            layers += [nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, width, 1, bias=False)]
        self.frames = nn.Sequential(*layers, nn.BatchNorm1d(width), nn.ReLU())
        self.words = nn.Linear(width, words)

    def forward(self, recording: Tensor) -> Tensor:
        logits: Tensor = self.words(self.frames(recording).mean(-1))
        return logits


class GlobalNorm(nn.Module):
    """A norm over channels and time together, with a weight and a bias for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width, 1)), nn.Parameter(torch.zeros(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((1, 2), keepdim=True)
        spread = centred.square().mean((1, 2), keepdim=True).add(1e-8).sqrt()
        return centred / spread * self.weight + self.bias


class Dilated(nn.Module):
    """A block with two ways out: to the next block, and to the sum of all blocks."""

    def __init__(self, width: int, inner: int, dilation: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.widen, self.norms = nn.Conv1d(width, inner, 1), nn.ModuleList([norm(inner), norm(inner)])
        self.acts = nn.ModuleList([nn.PReLU(), nn.PReLU()])
        self.over_time = nn.Conv1d(inner, inner, 3, padding=dilation, dilation=dilation, groups=inner)
        self.onward, self.out = nn.Conv1d(inner, width, 1), nn.Conv1d(inner, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.norms[0](self.acts[0](self.widen(x)))
        inner = self.norms[1](self.acts[1](self.over_time(inner)))
        return x + self.onward(inner), self.out(inner)


class Separator(nn.Module):
    """Speakers of a recording [N, 1, T] apart (Conv-TasNet, Luo and Mesgarani 2019)."""

    def __init__(self, norm: Callable[[int], nn.Module], basis: int = 48, width: int = 24) -> None:
        super().__init__()
        self.speakers = 2
        self.encode = nn.Conv1d(1, basis, 16, stride=8, bias=False)
        self.norm, self.narrow = nn.GroupNorm(1, basis), nn.Conv1d(basis, width, 1)
        self.blocks = nn.ModuleList(Dilated(width, 2 * width, 2**i, norm) for i in range(4))
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(width, self.speakers * basis, 1), nn.Sigmoid())
        self.decode = nn.ConvTranspose1d(basis, 1, 16, stride=8, bias=False)

    def forward(self, recording: Tensor) -> Tensor:
        basis = self.encode(recording).relu()
        x, total = self.narrow(self.norm(basis)), torch.zeros(())
        for block in self.blocks:
            x, out = block(x)
            total = total + out
        batch, _, frames = basis.shape
        masks = self.masks(total).view(batch, self.speakers, -1, frames)
        voices = self.decode((masks * basis.unsqueeze(1)).flatten(0, 1))
        apart: Tensor = voices.view(batch, self.speakers, -1)
        return apart


class Deeper(nn.Module):
    """Residual blocks without norms, and an image twice as large (EDSR, Lim et al. 2017)."""

    mean: Tensor

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.4]).view(3, 1, 1))
        self.head, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(blocks)
        )
        self.enlarge = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, image: Tensor) -> Tensor:
        x = first = self.head(image - self.mean)
        for block in self.body:
            x = x + 0.1 * block(x)
        larger: Tensor = self.last(self.enlarge(x + first)) + self.mean
        return larger


def _espcn() -> nn.Module:
    """Three convolutions and a pixel shuffle (Shi et al. 2016)."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
        nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3),
    )  # fmt: skip


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def _autoencoder(*, code: int | None) -> nn.Module:
    """Images of 32x32 through a code of so many numbers, or of a small image."""
    middle: list[nn.Module] = []
    if code is not None:
        middle = [
            nn.Flatten(),
            nn.Linear(96 * 16, code),
            nn.Linear(code, 96 * 16),
            nn.Unflatten(1, (96, 4, 4)),
        ]
    last = nn.ConvTranspose2d(24, 3, 4, stride=2, padding=1)
    downs = [*_down(3, 24), *_down(24, 48), *_down(48, 96)]
    return nn.Sequential(*downs, *middle, *_up(96, 48), *_up(48, 24), last, nn.Sigmoid())


def _generator(noise_size: int = 64, width: int = 24) -> nn.Module:
    """Images of 64x64 out of noise (DCGAN, Radford et al. 2016)."""
    first = [nn.ConvTranspose2d(noise_size, 8 * width, 4, bias=False), nn.BatchNorm2d(8 * width), nn.ReLU()]
    ups = [*_up(8 * width, 4 * width), *_up(4 * width, 2 * width), *_up(2 * width, width)]
    return nn.Sequential(*first, *ups, nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1), nn.Tanh())


def _to_target(make: Callable[[], nn.Module], inputs: Inputs) -> Make:
    """A network that is to come near something of its output's shape."""

    def loss(network: nn.Module) -> Tensor:
        found = network(*inputs(2))
        generator = torch.Generator().manual_seed(7)
        return F.l1_loss(found, torch.rand(found.shape, generator=generator).to(found.device))

    return lambda: Case(make(), inputs, loss)


def _keywords() -> Case:
    inputs = noise(40, 98)
    return Case(
        KeywordSpotter(),
        inputs,
        lambda network: F.cross_entropy(network(*inputs(2)), classes(12, 2)),
    )


NETWORKS: dict[str, Make] = {
    "DS-CNN": _keywords,
    "Conv-TasNet": _to_target(lambda: Separator(GlobalNorm), noise(1, 1600)),
    "Conv-TasNet, batch norm": _to_target(lambda: Separator(nn.BatchNorm1d), noise(1, 1600)),
    "autoencoder": _to_target(lambda: _autoencoder(code=32), images(32)),
    "autoencoder of convolutions": _to_target(lambda: _autoencoder(code=None), images(32)),
    "DCGAN": _to_target(_generator, noise(64, 1, 1)),
    "ESPCN": _to_target(_espcn, images(24, 1)),
    "EDSR": _to_target(Deeper, images(24)),
}
