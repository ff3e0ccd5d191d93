from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jstc.recipe.schema import TrainSettings
from jstc.train import seeds
from jstc.train.one_step import Mixing


def mixed(split: Any, step: int = 0, *, seed: int = 0, **alphas: float) -> tuple[Tensor, Tensor]:
    mixing = Mixing.of(TrainSettings(**alphas), 3)
    assert mixing is not None
    with seeds.isolated():
        images, labels = mixing(split.images, split.labels, seed=seed, step=step)
    return images, labels


def test_no_alpha_means_no_mixing() -> None:
    assert Mixing.of(TrainSettings(), 3) is None
    assert Mixing.of(TrainSettings(), None) is None


def test_the_number_of_classes_is_needed() -> None:
    with pytest.raises(ValueError, match="number of classes"):
        Mixing.of(TrainSettings(mixup=0.2), None)


def test_mixup_mixes_pixels_and_labels_by_one_share(split: Any) -> None:
    images, labels = mixed(split, mixup=0.8)
    own = labels[torch.arange(48), split.labels]
    share = own[0].item()
    assert 0 < share < 1 and torch.allclose(own, own[0])  # neighbours in the split are of other classes
    assert torch.allclose(labels.sum(1), torch.ones(48))
    expected = share * split.images + (1 - share) * split.images.roll(1, 0)
    assert torch.allclose(images, expected, atol=1e-5)


def test_cutmix_pastes_a_rectangle_of_the_share_in_the_labels(split: Any) -> None:
    for step in range(5):
        images, labels = mixed(split, step, cutmix=1.0)
        kept = (images == split.images).all(dim=1).double().mean(dim=(1, 2))
        assert torch.allclose(labels[torch.arange(48), split.labels].double(), kept, atol=1e-6)
        pasted = images == split.images.roll(1, 0)
        assert (pasted | (images == split.images)).all()


def test_each_step_has_its_own_draw_and_gives_it_again(split: Any) -> None:
    draws = [mixed(split, step, seed=seed, mixup=0.8)[1] for step, seed in ((0, 0), (1, 0), (0, 1))]
    assert not any(torch.equal(draws[0], other) for other in draws[1:])
    torch.manual_seed(77)
    assert torch.equal(mixed(split, 0, mixup=0.8)[1], draws[0])


def test_with_both_some_steps_have_one_and_some_the_other(split: Any) -> None:
    alone = {
        name: [mixed(split, step, **{name: 1.0})[0] for step in range(8)] for name in ("mixup", "cutmix")
    }
    assert not torch.equal(alone["mixup"][0], alone["cutmix"][0])
    cut = 0
    for step in range(8):
        images = mixed(split, step, mixup=1.0, cutmix=1.0)[0]
        pasted = (images == split.images) | (images == split.images.roll(1, 0))
        cut += bool(pasted.all())
    assert 0 < cut < 8
