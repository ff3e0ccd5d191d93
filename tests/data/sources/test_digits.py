from __future__ import annotations

import torch

import jstc.data
from jstc.data import Dataset
from jstc.data.in_memory import MemorySplit
from jstc.recipe.schema import InputSettings

CPU = torch.device("cpu")


def _load(*, seed: int = 0, settings: InputSettings | None = None) -> Dataset:
    return jstc.data.load("digits", root=None, settings=settings or InputSettings(), seed=seed, device=CPU)


def _members(split: object) -> set[int]:
    assert isinstance(split, MemorySplit)
    return set(split.members.tolist())


def test_sizes_of_the_splits() -> None:
    data = _load()
    sizes = [s.num_images for s in (data.train, data.search_val, data.train_full, data.test)]
    assert sizes == [958, 240, 1198, 599]
    assert not _members(data.train) & _members(data.search_val)


def test_images_reach_the_network_normalised() -> None:
    data = _load()
    images, labels = next(data.train_full.ordered(2000))
    assert images.shape == (1198, 3, 32, 32)
    assert abs(images.mean().item()) < 0.02
    assert abs(images.std().item() - 1) < 0.02
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(10))


def test_every_class_has_its_share_in_every_split() -> None:
    data = _load()
    for split in (data.train, data.search_val, data.test):
        labels = next(split.ordered(2000))[1]
        counts = torch.bincount(labels)
        assert (counts.max() - counts.min()) / len(labels) < 0.02


def test_the_test_split_does_not_depend_on_the_seed_and_the_search_split_does() -> None:
    first, second = _load(seed=0), _load(seed=1)
    a, b = (torch.cat([x for x, _ in d.test.ordered(600)]) for d in (first, second))
    assert torch.equal(a, b)
    assert _members(first.search_val) != _members(second.search_val)


def test_image_size_and_val_fraction_are_settings() -> None:
    data = _load(settings=InputSettings(image_size=24, val_fraction=0.5))
    assert (data.info.height, data.info.width) == (24, 24)
    assert next(data.test.ordered(2))[0].shape == (2, 3, 24, 24)
    assert data.search_val.num_images == data.train.num_images == 599


def test_digits_are_learnable() -> None:
    # A ridge regression on the pixels reads most of them, so images and labels belong together.
    data = _load()
    images, labels = next(data.train_full.ordered(2000))
    x = images[:, 0].flatten(1)
    target = torch.nn.functional.one_hot(labels, 10).float()
    weights = torch.linalg.solve(x.T @ x + 100 * torch.eye(x.shape[1]), x.T @ target)
    tests, answers = next(data.test.ordered(2000))
    right = ((tests[:, 0].flatten(1) @ weights).argmax(1) == answers).float().mean()
    assert right > 0.9
