from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jstc.train import one_step
from jstc.train.one_step import Criterion, Teacher

PLAIN = Criterion(label_smoothing=0.1)


def network(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 36, 3))


def found(parts: int, split: Any, *, norm: bool = False, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients, loss and scores of a batch in so many parts."""
    module = network(norm=norm)
    options = {"criterion": PLAIN} | options
    loss, scores = one_step.accumulate(module, split.images, split.labels, parts=parts, **options)
    return torch.cat([p.grad.flatten() for p in module.parameters()]), loss, scores


@pytest.mark.parametrize("parts", [2, 5, 48, 100])
def test_parts_give_the_gradients_of_the_whole_batch(split: Any, parts: int) -> None:
    for mine, theirs in zip(found(parts, split), found(1, split), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_parts_of_a_taught_network_too(split: Any) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    criterion = Criterion(teacher=Teacher(teacher, 0.5, 2.0))
    whole, parts = (found(number, split, criterion=criterion)[0] for number in (1, 5))
    assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-6)


def test_batch_norms_see_the_parts(split: Any) -> None:
    whole, parts = (found(number, split, norm=True)[0] for number in (1, 4))
    assert not torch.allclose(whole, parts, rtol=1e-2)


def test_the_weight_is_that_of_the_gradients_alone(split: Any) -> None:
    (whole, loss, _), (half, same, _) = (found(2, split, weight=weight) for weight in (1.0, 0.5))
    assert torch.allclose(whole * 0.5, half)
    assert torch.equal(loss, same)


class Replicated(nn.Module):
    """Stands for DistributedDataParallel: counts the forwards after which gradients are exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.syncs, self.exchanges = network(), True, []

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self.syncs = False
        yield
        self.syncs = True

    def forward(self, images: Tensor) -> Tensor:
        self.exchanges.append(self.syncs)
        return self.inner(images)


def test_processes_exchange_gradients_once(split: Any) -> None:
    module = Replicated()
    one_step.accumulate(module, split.images, split.labels, criterion=PLAIN, parts=3)
    assert module.exchanges == [False, False, True]


def change(scaler: torch.amp.GradScaler | None, clip_norm: float | None) -> Tensor:
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    loss = (parameter * torch.tensor([3.0, 4.0, 0.0, 0.0])).sum()
    (loss if scaler is None else scaler.scale(loss)).backward()
    one_step.step(optimizer, clip_norm=clip_norm, scaler=scaler)
    return -parameter.detach()


@pytest.mark.parametrize("scaled", [False, True])
def test_the_norm_of_the_whole_gradient_is_clipped(scaled: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None
    assert change(scaler, None).norm().item() == pytest.approx(5.0)
    assert change(scaler, 0.5).tolist() == pytest.approx([0.3, 0.4, 0.0, 0.0], rel=1e-4)
    assert change(scaler, 50.0).norm().item() == pytest.approx(5.0)


def test_a_step_that_float16_cannot_hold_is_left_out_and_the_scale_falls() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    assert change(scaler, None).tolist() == [0.0] * 4
    assert scaler.get_scale() == 2.0**126
