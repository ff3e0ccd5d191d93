"""What is said when the memory of a GPU runs out. The GPU here is a network that counts images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jstc.data import Epoch
from jstc.errors import StageError
from jstc.recipe.schema import TrainSettings
from jstc.train import optim
from jstc.train.loop import train_steps
from jstc.train.one_step import Criterion, StepOptions, largest
from jstc.train.schedule import Schedule

CPU = torch.device("cpu")


class Small(nn.Module):
    """Has memory for so many images at once, forward (`at="forward"`) or backward."""

    def __init__(self, inner: nn.Module, room: int, at: str = "forward") -> None:
        super().__init__()
        self.inner, self.room, self.at = inner, room, at
        self.tried: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.tried.append(len(images))
        scores: Tensor = self.inner(images)
        if self.at == "backward":
            scores.register_hook(lambda gradient: self.check(len(gradient)))
        else:
            self.check(len(images))
        return scores

    def check(self, number: int) -> None:
        if number > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\nmore")


def train(network: Small, split: Any, batch: int = 48, accumulate: int = 1) -> None:
    settings = TrainSettings(batch_size=batch, lr=0.05, accumulate=accumulate)
    train_steps(
        network,
        split.shuffled(batch, Epoch(0, 0)),
        optimizer=optim.make(dict(network.named_parameters()), settings),
        schedule=Schedule(0.05, 20),
        first_step=0,
        options=StepOptions(seed=0, accumulate=accumulate),
    )


@pytest.mark.parametrize("at", ["forward", "backward"])
def test_it_says_which_batch_fits(network: nn.Module, split: Any, at: str) -> None:
    small = Small(network, room=13, at=at)
    with pytest.raises(StageError) as error:
        train(small, split)
    assert small.tried == [48, 24, 12]
    assert str(error.value) == (
        "out of memory on cpu, training with batches of 48 images of 2x8x8 (CUDA out of memory); 12 at once "
        "fit: start over with train.batch_size=12, or with train.accumulate=4, which keeps the batch "
        "(--set KEY=VALUE --fresh)"
    )


def test_what_it_says_is_right(network: nn.Module, split: Any) -> None:
    train(Small(network, room=13), split, batch=12)
    train(Small(network, room=13), split, accumulate=4)


def test_with_parts_of_a_batch(network: nn.Module, split: Any) -> None:
    with pytest.raises(StageError, match=r"in 2 parts .*; 12 at once fit: .*batch_size=24.*accumulate=4"):
        train(Small(network, room=13), split, accumulate=2)


def test_when_nothing_fits_it_says_so(network: nn.Module, split: Any) -> None:
    with pytest.raises(StageError, match=r"not one image fits: .*input\.image_size"):
        train(Small(network, room=0), split)


def test_a_batch_norm_that_cannot_take_one_image_is_no_traceback() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 8), nn.BatchNorm2d(3), nn.Flatten())
    assert largest(Small(network, room=1), torch.zeros(8, 2, 8, 8), Criterion(), below=8) == 0


def test_activations_are_gone_before_it_tries(network: nn.Module, split: Any) -> None:
    class Keeping(Small):
        def forward(self, images: Tensor) -> Tensor:
            import weakref

            alive.append([reference() is not None for reference in references])
            activation = images * 2
            references.append(weakref.ref(activation))
            return super().forward(activation)

    references: list[Any] = []
    alive: list[list[bool]] = []
    with pytest.raises(StageError):
        train(Keeping(network, room=13), split)
    assert alive[1] == [False]
