from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jstc.data.base import DataInfo, Epoch
from jstc.data.in_memory import Augmentation, MemorySplit
from jstc.data.pixels import prepared_pixels

INFO = DataInfo("test", ("a", "b"), 3, 8, 8, (0.5, 0.25, 0.0), (0.5, 0.5, 1.0))


def _split(count: int = 23, *, augmentation: Augmentation | None = None) -> MemorySplit:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, 3, 8, 8), generator=generator).to(torch.uint8)
    return MemorySplit(images, torch.arange(count), torch.arange(count), INFO, augmentation)


def _raw(images: Tensor) -> Tensor:
    mean = torch.tensor(INFO.mean).view(1, 3, 1, 1)
    return ((images * torch.tensor(INFO.std).view(1, 3, 1, 1) + mean) * 255).round()


def test_ordered_batches_are_the_images_normalised() -> None:
    split = _split(5)
    batches = list(split.ordered(2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == torch.float32
    assert torch.equal(_raw(images), split.images.float())
    assert images[0, 1, 0, 0].item() == pytest.approx((split.images[0, 1, 0, 0].item() / 255 - 0.25) / 0.5)


@pytest.mark.parametrize("augmentation", [None, Augmentation(2, flip=True)])
def test_starting_later_yields_the_same_batches(augmentation: Augmentation | None) -> None:
    split = _split(augmentation=augmentation)
    whole = list(split.shuffled(4, Epoch(1, 3)))
    tail = list(split.shuffled(4, Epoch(1, 3, start=2)))
    assert len(whole) == 5
    for (images, labels), (same_images, same_labels) in zip(whole[2:], tail, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_epochs_differ_in_order_and_augmentation() -> None:
    split = _split(augmentation=Augmentation(2, flip=True))
    (first, labels), (second, others) = (next(split.shuffled(23, Epoch(0, e))) for e in (0, 1))
    assert not torch.equal(labels, others)
    assert not torch.equal(first[labels.argsort()], second[others.argsort()])


def test_an_epoch_has_no_image_twice_and_a_small_split_gives_one_batch() -> None:
    split = _split(5)
    batches = list(split.shuffled(64, Epoch(0, 0)))
    assert split.steps(64) == len(batches) == 1
    assert sorted(batches[0][1].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("flip", [True, False])
def test_augmented_images_are_shifted_or_mirrored_windows(flip: bool) -> None:
    split = _split(40, augmentation=Augmentation(1, flip=flip))
    images, labels = next(split.shuffled(40, Epoch(0, 0)))
    mirrored = 0
    for image, original in zip(_raw(images), split.images[labels].float(), strict=True):
        windows = torch.nn.functional.pad(original, (1, 1, 1, 1)).unfold(1, 8, 1).unfold(2, 8, 1)
        windows = windows.permute(1, 2, 0, 3, 4).flatten(0, 1)
        plain = (windows == image).flatten(1).all(1).any()
        turned = (windows.flip(-1) == image).flatten(1).all(1).any()
        assert plain or turned
        mirrored += int(turned and not plain)
    assert 5 < mirrored < 35 if flip else mirrored == 0


def test_augment_false_leaves_images_alone() -> None:
    split = _split(augmentation=Augmentation(2, flip=True))
    images, labels = next(split.shuffled(8, Epoch(0, 0, augment=False)))
    assert torch.equal(_raw(images), split.images[labels].float())


def test_images_are_resized_to_the_shape_in_info() -> None:
    split = replace(_split(), info=replace(INFO, height=16, width=12))
    assert next(split.shuffled(4, Epoch(0, 0)))[0].shape == (4, 3, 16, 12)
    assert next(split.ordered(4))[0].shape == (4, 3, 16, 12)


@pytest.mark.parametrize("resize_side", [None, 19])
def test_images_of_another_size_get_the_bytes_that_pillow_gives(resize_side: int | None) -> None:
    info = replace(INFO, height=16, width=12, resize_side=resize_side, interpolation="bicubic")
    split = replace(_split(), info=info)
    images, _ = next(split.ordered(4))
    pillow = [
        prepared_pixels(Image.fromarray(image), 16, 12, resize_side, "bicubic")
        for image in split.images[:4].permute(0, 2, 3, 1).numpy()
    ]
    assert np.array_equal(_raw(images).permute(0, 2, 3, 1).numpy(), pillow)
    assert torch.equal(next(split.originals(4))[0], split.images[:4])


def test_global_random_state_is_neither_used_nor_changed() -> None:
    split = _split(augmentation=Augmentation(2, flip=True))
    before = torch.get_rng_state()
    first = next(split.shuffled(4, Epoch(0, 0)))[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(next(split.shuffled(4, Epoch(0, 0)))[0], first)
