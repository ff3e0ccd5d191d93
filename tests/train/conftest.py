from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from jstc.data.base import WHOLE, Epoch, Part
from jstc.train import seeds


@dataclass
class TinySplit:
    """Three classes of 8x8 noise around a pattern of their own; keeps the split's contract."""

    num_images: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        source = torch.Generator().manual_seed(self.seed)
        patterns = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(99))
        self.labels = torch.arange(self.num_images) % 3
        noise = torch.randn(self.num_images, 2, 8, 8, generator=source)
        self.images = patterns[self.labels] + 0.5 * noise

    def steps(self, batch_size: int) -> int:
        return max(1, self.num_images // batch_size)

    def shuffled(
        self, batch_size: int, epoch: Epoch, *, part: Part = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(self.num_images, generator=seeds.generator(epoch.seed, "order", epoch.number))
        for batch in range(epoch.start, self.steps(batch_size)):
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            share = rows[part.of(0, len(rows))]
            yield self.images[share], self.labels[share]

    def ordered(
        self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            images, labels = (tensor[part.of(0, len(tensor))] for tensor in batch)
            if len(labels):
                yield images, labels


class TinyNet(nn.Module):
    """Convolution, batch norm, dropout, linear: one of everything that carries state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(6 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = nn.functional.max_pool2d(self.bn(self.conv(images)).relu(), 2)
        return self.fc(self.dropout(hidden.flatten(1)))


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def split() -> TinySplit:
    return TinySplit()


@pytest.fixture
def make_network() -> Callable[[], TinyNet]:
    def make() -> TinyNet:
        with seeds.seeded(0, "tiny"):
            return TinyNet()

    return make


@pytest.fixture
def network(make_network: Callable[[], TinyNet]) -> TinyNet:
    return make_network()
