"""Augmentation by recipe keys: torchvision's classes, drawn as a function of seed, epoch and position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import jstc.data
from jstc.data import Dataset, Part
from jstc.data.base import DataInfo, Epoch
from jstc.data.in_memory import Augmentation, MemorySplit
from jstc.data.transforms import for_training, policy
from jstc.recipe.schema import InputSettings

Make = Callable[..., Path]
INFO = DataInfo("test", ("a", "b"), 3, 8, 8, (0.5, 0.25, 0.0), (0.5, 0.5, 1.0))
POLICIES = {
    "randaugment": {"auto_augment": "randaugment"},
    "trivialaugment": {"auto_augment": "trivialaugment"},
    "erasing": {"random_erasing": 1.0},
}


def _names(transform: object) -> list[str]:
    return [type(step).__name__ for step in transform.transforms]  # type: ignore[attr-defined]


def test_they_are_torchvisions_in_the_order_of_its_recipes() -> None:
    plain = ["RandomResizedCrop", "RandomHorizontalFlip", "PILToTensor"]
    assert _names(for_training(INFO, InputSettings())) == plain
    settings = InputSettings(auto_augment="trivialaugment", random_erasing=0.1)
    assert _names(for_training(INFO, settings)) == [
        *plain[:2], "TrivialAugmentWide", plain[2], "RandomErasing"
    ]  # fmt: skip
    ops = InputSettings(auto_augment="randaugment", randaugment_ops=3, randaugment_magnitude=7)
    [randaugment] = policy(ops, INFO).transforms  # type: ignore[union-attr]
    assert (randaugment.num_ops, randaugment.magnitude) == (3, 7)


def test_without_augmentation_there_is_no_policy_and_a_contradiction_is_refused() -> None:
    assert policy(InputSettings(augment=False), INFO) is None
    with pytest.raises(ValidationError, match="need augment: true"):
        InputSettings(augment=False, auto_augment="randaugment")


def _memory(**keys: object) -> MemorySplit:
    settings = InputSettings.model_validate(keys)
    images = torch.randint(1, 256, (11, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    augmentation = Augmentation.wanted(settings, INFO, side=8, flip=True)
    return MemorySplit(images, torch.arange(11), torch.arange(11), INFO, augmentation)


def _images(batches: object) -> Tensor:
    return torch.cat([images for images, _ in batches])  # type: ignore[attr-defined]


@pytest.mark.parametrize("keys", POLICIES.values(), ids=POLICIES)
def test_in_memory_they_are_a_function_of_seed_epoch_and_position(keys: dict[str, object]) -> None:
    split, before = _memory(**keys), torch.get_rng_state()
    whole = _images(split.shuffled(3, Epoch(1, 2)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(_images(split.shuffled(3, Epoch(1, 2, start=1))), whole[3:])
    shares = [split.shuffled(3, Epoch(1, 2), part=Part(rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat([_images(pair) for pair in zip(*shares, strict=True)]), whole)
    others = [_images(s.shuffled(3, Epoch(1, 2))) for s in (_memory(), _memory(augment=False))]
    assert not any(torch.equal(whole, other) for other in others)
    assert torch.equal(_images(split.shuffled(3, Epoch(1, 2, augment=False))), others[1])


def test_erased_pixels_have_the_mean() -> None:
    plain, erased = (_images(_memory(**keys).shuffled(11, Epoch(0, 0))) for keys in ({}, POLICIES["erasing"]))
    changed = (plain != erased).any(1)
    assert (changed.flatten(1).sum(1) > 0).all()
    assert erased.movedim(1, -1)[changed].abs().max() < 0.01


@pytest.mark.parametrize("keys", POLICIES.values(), ids=POLICIES)
def test_with_a_loader_too(make_tree: Make, keys: dict[str, object]) -> None:
    root = make_tree(classes=7, images=1)

    def load(**more: object) -> Dataset:
        settings = InputSettings.model_validate({"image_size": 16, **more})
        return jstc.data.load("imagefolder", root=root, settings=settings, seed=0, device=torch.device("cpu"))

    split = load(workers=0, **keys).train_full
    whole = _images(split.shuffled(2, Epoch(1, 0)))
    again = load(workers=1, **keys).train_full
    assert torch.equal(_images(again.shuffled(2, Epoch(1, 0, start=1))), whole[2:])
    assert not torch.equal(_images(load(workers=0).train_full.shuffled(2, Epoch(1, 0))), whole)
