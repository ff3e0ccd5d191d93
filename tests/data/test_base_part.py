"""Every process gets its slice of the batches that one process alone would see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import jstc.data
from jstc.data import Part, Split
from jstc.data.base import DataInfo, Epoch
from jstc.data.given import GivenData
from jstc.data.in_memory import Augmentation, MemorySplit
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

CPU = torch.device("cpu")
COUNT, BATCH = 11, 6
INFO = DataInfo("test", ("a", "b"), 3, 8, 8, (0.5, 0.25, 0.0), (0.5, 0.5, 1.0))
Make = Callable[..., Path]


def _memory() -> MemorySplit:
    images = torch.randint(1, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    members = torch.arange(COUNT)
    return MemorySplit(images.to(torch.uint8), members, members, INFO, Augmentation(2, flip=True))


@pytest.fixture(params=["memory", "loader", "given"])
def split(request: pytest.FixtureRequest) -> Split:
    if request.param == "memory":
        return _memory()
    if request.param == "given":
        images = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        given = GivenData.of(*([(image, label) for label, image in enumerate(images)],) * 2)
        settings = InputSettings()
        return given.dataset(given.info("abcdefghijk", settings), settings, CPU).train
    root = request.getfixturevalue("make_tree")(classes=COUNT, images=1)
    settings = InputSettings(image_size=16, workers=0)
    return jstc.data.load("imagefolder", root=root, settings=settings, seed=0, device=CPU).train_full


def _together(shares: list[Iterator[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    batches = zip(*shares, strict=True)
    return [tuple(map(torch.cat, zip(*batch, strict=True))) for batch in batches]  # type: ignore[misc]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1])
def test_the_shares_of_all_processes_are_the_batches_of_one(split: Split, world: int, start: int) -> None:
    epoch = Epoch(1, 2, start)
    whole = list(split.shuffled(BATCH // 2, epoch))
    shares = [split.shuffled(BATCH // 2, epoch, part=Part(rank, world)) for rank in range(world)]
    found = _together(shares)
    assert len(found) == len(whole) == COUNT // 3 - start
    for (images, labels), (same_images, same_labels) in zip(whole, found, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("limit", [None, 8])
def test_each_image_is_evaluated_by_exactly_one_process(split: Split, world: int, limit: int | None) -> None:
    shares = [list(split.ordered(BATCH, limit=limit, part=Part(rank, world))) for rank in range(world)]
    assert all(len(labels) for share in shares for _, labels in share)
    found = torch.cat([images for share in shares for images, _ in share]).flatten(1)
    whole = torch.cat([images for images, _ in split.ordered(BATCH, limit=limit)]).flatten(1)
    assert sorted(map(hash, map(tuple, found.tolist()))) == sorted(map(hash, map(tuple, whole.tolist())))


def test_shares_are_contiguous_and_differ_by_one_image_at_most() -> None:
    slices = [Part(rank, 4).of(10, 20) for rank in range(4)]
    assert [s.stop - s.start for s in slices] == [2, 3, 2, 3]
    assert [position for s in slices for position in range(s.start, s.stop)] == list(range(10, 20))


def test_training_on_fewer_images_than_processes_is_refused(split: Split) -> None:
    with pytest.raises(DataError, match="a batch of 11 images is too small for 12 processes"):
        next(split.shuffled(64, Epoch(0, 0), part=Part(0, 12)))
