"""Small networks of several tasks, for what has to work for any: images, masks, tokens, boxes, signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class SuperResolution(nn.Module):
    """An image [N, 3, H, W] to one twice as large."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.head, self.body = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.tail, self.shuffle = nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        return self.shuffle(self.tail(x + self.body(x).relu()))


class Segmentation(nn.Module):
    """An image [N, 3, H, W] to a dictionary of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.main, self.auxiliary = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.stem(x)
        size = x.shape[-2:]
        up = nn.functional.interpolate(self.main(features), size=size, mode="bilinear")
        return {"out": up, "aux": self.auxiliary(features)}


class TwoInputs(nn.Module):
    """An image [N, 3, H, W] and figures [N, 4] to a tuple of scores and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.figures = nn.Conv2d(3, 12, 3, 2), nn.Linear(4, 12)
        self.mix, self.out = nn.Linear(24, 20), nn.Linear(20, 3)

    def forward(self, image: Tensor, figures: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([self.image(image).relu().mean((2, 3)), self.figures(figures).relu()], dim=1)
        scores = self.out(self.mix(joined).relu())
        return scores, scores.sum(1)


class Encoder(nn.Module):
    """Token ids [N, T] to token scores; tied embedding, a buffer for positions, heads by an attribute."""

    def __init__(self, vocabulary: int = 40, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.norm, self.scores = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        self.scores.weight = self.embedding.weight
        self.num_heads, self.head_dim = heads, width // heads
        self.register_buffer("positions", torch.randn(32, width) / 4, persistent=False)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        count, length = ids.shape
        x = self.embedding(ids) + self.positions[:length]
        parts = self.qkv(x).reshape(count, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        scores = parts[0] @ parts[1].transpose(-2, -1) * self.head_dim**-0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        mixed = (scores.softmax(-1) @ parts[2]).transpose(1, 2).reshape(count, length, -1)
        x = x + self.project(mixed)
        return self.scores(self.norm(x + self.mlp(x)))


@dataclass
class Found:
    """What a detector gives for one level."""

    boxes: Tensor
    scores: Tensor
    loss: Tensor | None = None


class Detector(nn.Module):
    """An image [N, 3, H, W] to a list with a level's boxes and scores each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.boxes = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(16, 4, 1)])
        self.scores = nn.ModuleList([nn.Conv2d(8, 3, 1), nn.Conv2d(16, 3, 1)])

    def forward(self, images: Tensor) -> list[Found]:
        first = self.stem(images).relu()
        levels = [first, self.down(first).relu()]
        found = zip(levels, self.boxes, self.scores, strict=True)
        return [Found(boxes(x), scores(x)) for x, boxes, scores in found]


class Keywords(nn.Module):
    """A signal [N, 1, T] to scores [N, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 12, 9, 4), nn.BatchNorm1d(12), nn.ReLU(), nn.Conv1d(12, 16, 5, 2), nn.ReLU()
        )
        self.out = nn.Linear(16, 6)

    def forward(self, signal: Tensor) -> Tensor:
        return self.out(self.layers(signal).mean(2))


Inputs = Callable[[int], tuple[Any, ...]]


def tokens(count: int) -> tuple[Tensor]:
    return (torch.randint(40, (count, 7), generator=torch.Generator().manual_seed(count)),)


def floats(*shapes: tuple[int, ...]) -> Inputs:
    def made(count: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(count)
        return tuple(torch.randn(count, *shape, generator=generator) for shape in shapes)

    return made


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "super-resolution": (SuperResolution, floats((3, 8, 8))),
    "segmentation": (Segmentation, floats((3, 16, 16))),
    "two inputs": (TwoInputs, floats((3, 9, 9), (4,))),
    "encoder": (Encoder, tokens),
    "detector": (Detector, floats((3, 16, 16))),
    "keywords": (Keywords, floats((1, 64))),
}
"""By name: what makes the network, and its positional inputs for a batch size."""
