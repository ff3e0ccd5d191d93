"""`jstc.JointSearch` with other people's loops, networks and habits, and broken off wherever it may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jstc
from jstc.errors import InputError, RecipeError
from tests.test_joint_search import BATCHES, IMAGES, loss_of, upscaler

SAME_PLAN = {"settings": {"search.perturbation": False}}


@pytest.fixture
def new(tmp_path: Path) -> Callable[..., jstc.JointSearch]:
    def make(model: nn.Module | None = None, folder: str = "out", **changes: Any) -> jstc.JointSearch:
        given: dict[str, Any] = {"example": IMAGES[:1], "flops": 0.5, "rounds": 2, "progress": False}
        given |= changes
        model = upscaler() if model is None else model
        return jstc.JointSearch(model, given.pop("example"), out=tmp_path / folder, **given)

    return make


# Settings


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"settings": {"search.rounds": 5}}, "rounds="),
        ({"settings": ["seed=3"]}, "seed="),
        ({"settings": {"params": 0.5}}, "params="),
        ({"settings": {"channels": {"ignore": ["stem"]}}}, "ignore="),
        ({"settings": {"search.epochs_per_round": 0.25}}, "loop's"),
        ({"settings": ["search.compile=true"]}, "loop's"),
        ({"settings": {"search": {"eval_images": 5}}}, "loop's"),
        ({"settings": {"train.lr": 0.1}}, "loop's"),
        ({"settings": {"search.candidates": 9}, "trained": True, "batches": BATCHES}, "with loss="),
        ({"settings": {"search.importance_images": 9}}, "with trained= and batches= and loss="),
        ({"settings": {"search.reconstruction_images": 9}, "trained": True}, "with batches="),
        ({"settings": {"latency_on.threads": 1}}, "with latency="),
    ],
)
def test_settings_that_would_do_nothing_are_refused(new: Any, changes: Any, advice: str) -> None:
    with pytest.raises(RecipeError, match="does nothing here") as error:
        new(**changes)
    assert advice in error.value.advice


def test_parts_of_the_search_can_be_switched_off_together(new: Any) -> None:
    assert new(settings={"search.method": "lean"}).ask().plan


# Scores


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.array([0.5]), torch.tensor([0.5], requires_grad=True), True, 1]
)
def test_whatever_holds_one_number_is_a_score(new: Any, value: Any) -> None:
    search = new()
    search.tell(search.ask(), value)
    assert search.round == 1


@pytest.mark.parametrize("value", ["0.5", b"1", 1j, torch.tensor(1j), torch.ones(2), {"map": 1.0}])
def test_whatever_does_not_hold_one_number_is_none(new: Any, value: Any) -> None:
    search = new()
    round_ = search.ask()
    with pytest.raises(InputError, match="a score is one number"):
        search.tell(round_, value)
    search.tell(round_, 1.0)


# Optimisers


def closure_train(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(network, BATCHES[0])
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Adafactor,
        lambda p: torch.optim.LBFGS(p, max_iter=2),
        lambda p: torch.optim.Adam(p, amsgrad=True, fused=True),
        torch.optim.ASGD,
        torch.optim.NAdam,
        lambda p: torch.optim.AdamW([{"params": list(p)[:3]}]),
    ],
    ids=["adafactor", "lbfgs", "fused", "asgd", "nadam", "part"],
)
def test_any_optimiser_goes_on_with_all_of_a_parameters_state_or_none(new: Any, make: Any) -> None:
    """A part of it is not completed by the optimiser, which would fail."""
    search = new(**SAME_PLAN)
    first = search.ask()
    optimizer = make(first.network.parameters())
    closure_train(first.network, optimizer)
    first.save(optimizer)
    carries = not isinstance(optimizer, torch.optim.Adafactor | torch.optim.LBFGS)
    if carries:
        search.tell(first, 1.0)
    else:
        with pytest.warns(UserWarning, match="not carried"):
            search.tell(first, 1.0)
    saved = {n: optimizer.state[p] for n, p in first.network.named_parameters() if p in optimizer.state}
    again = new(**SAME_PLAN)
    for now in (search, again):  # as it was in memory, and out of the checkpoint
        second = now.ask()
        optimizer = make(second.network.parameters())
        second.load(optimizer)
        for name, parameter in second.network.named_parameters():
            state = optimizer.state.get(parameter, {})
            assert not state or state.keys() == saved[name].keys()
            for key, value in state.items():
                assert type(value) is type(saved[name][key])
                if isinstance(value, Tensor):
                    assert torch.equal(value, saved[name][key]) and value.dtype == saved[name][key].dtype
        assert bool(optimizer.state) == carries or isinstance(optimizer, torch.optim.Adafactor)
        closure_train(second.network, optimizer)


# Statistics


def statistics() -> nn.Module:
    network = nn.Sequential(nn.BatchNorm1d(3))
    train_on = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)) + 4
    network(train_on)
    return network


def test_statistics_stay_when_there_is_nothing_to_estimate_them_on() -> None:
    network = statistics()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with pytest.raises(InputError, match="no batches"):
        jstc.recalibrate(network, iter(()))

    def failing(network: nn.Module, batch: Tensor) -> None:
        network(batch)
        raise KeyError("label")

    with pytest.raises(KeyError):
        jstc.recalibrate(network, [torch.zeros(4, 3)], call=failing)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert network.training and network[0].momentum == 0.1


def test_batches_without_tensors_can_be_recalibrated_on() -> None:
    network = statistics()
    batches = [{"rows": np.full((4, 3), value, np.float32)} for value in (1, 3)]
    jstc.recalibrate(network, batches, call=lambda net, batch: net(torch.from_numpy(batch["rows"])))
    assert network[0].running_mean.tolist() == [2, 2, 2]
