"""Training features in a search: what AdamW knows of each channel, and searches broken off."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jstc.channels import ChannelMap
from jstc.core.seeds import derive
from jstc.jst.round import train_round
from jstc.jst.subnetwork import Target, cut, put_back
from jstc.plan import Plan
from jstc.train import checkpoint, optim
from jstc.train.device import to_device
from jstc.train.loop import stream, train_steps
from jstc.train.metrics import TrainingMonitor

CPU = torch.device("cpu")
ADAMW = {"train.optimizer": "adamw", "train.lr": 0.01}
FEATURES: dict[str, dict[str, Any]] = {
    "adamw": ADAMW,
    "mixing": {"train.mixup": 0.4, "train.cutmix": 1.0},
    "accumulate": {"train.accumulate": 2},
    "float16": {"train.precision": "float16"},
    "step": {"train.schedule": "step", "train.milestones": [0.2, 0.6]},
    "all": {**ADAMW, "train.mixup": 0.4, "train.accumulate": 3, "train.precision": "float16"},
}
SHORT = {"search.rounds": 3, "search.steps_per_round": 3, "train.precision": "float32"}


class BreakError(Exception):
    pass


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_it_has_an_effect_and_a_search_broken_off_ends_the_same(
    searched: Callable[..., Any], run_search: Any, power_cut: Any, tmp_path: Path, features: dict[str, Any]
) -> None:
    whole, plain = searched(SHORT | features), searched(SHORT)
    with power_cut(2) as progress:
        run_search(tmp_path, SHORT | features, progress=progress)
    torch.manual_seed(5)
    assert run_search(tmp_path, SHORT | features).files == whole.files
    assert whole.files["subnetwork.safetensors"] != plain.files["subnetwork.safetensors"]


@pytest.mark.parametrize("steps", [2, 5])
def test_the_scale_of_float16_is_that_of_the_step_where_it_broke_off(
    run_search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """With one that grows at every step, so that many of them are left out, and where to start matters."""
    monkeypatch.setattr("jstc.train.job.scaler", lambda *_: torch.amp.GradScaler("cpu", growth_interval=1))
    changes = SHORT | {"train.precision": "float16", "checkpoint.every_steps": 1, "search.rounds": 2}
    whole = run_search(tmp_path / "a", changes)
    calls, after_step = itertools.count(1), TrainingMonitor.after_step

    def cut_off(monitor: TrainingMonitor, *given: Any) -> None:
        after_step(monitor, *given)
        if next(calls) == steps:
            raise BreakError

    with monkeypatch.context() as patch:
        patch.setattr(TrainingMonitor, "after_step", cut_off)
        with pytest.raises(BreakError):
            run_search(tmp_path / "b", changes)
    assert run_search(tmp_path / "b", changes).files == whole.files


@pytest.fixture
def adamw_target(channels: ChannelMap, network: Any, make_recipe: Any) -> Target:
    """A target whose optimiser has a history, different in every element."""
    target = Target.new(network, channels, make_recipe(ADAMW).train)
    source = torch.Generator().manual_seed(5)
    for kind, tensors in target.optimizer.items():
        for tensor in tensors.values():
            random = torch.rand(tensor.shape, generator=source)
            tensor.copy_((random * 9).floor() if kind == "steps" else random * 0.01)
    return target


def flat(state: optim.State) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in checkpoint.join(**state).items()}


def test_the_state_of_adamw_is_cut_put_back_and_cut_again_bit_for_bit(
    adamw_target: Target, channels: ChannelMap, plan: Plan, make_context: Any
) -> None:
    target, context = adamw_target, make_context(ADAMW)
    before = flat(target.optimizer)
    sub = cut(target, plan, context.recipe.train)
    small = flat(optim.get_state(sub.optimizer, sub.parameters))
    assert small.keys() == before.keys()
    for name, tensor in small.items():
        parameter = name.split(".", 1)[1]
        assert torch.equal(tensor, channels.take({parameter: before[name]}, plan)[parameter]), name
    train_round(sub, context, 0)
    put_back(sub, target)
    trained = flat(optim.get_state(sub.optimizer, sub.parameters))
    again = cut(target, plan, context.recipe.train)
    found = flat(optim.get_state(again.optimizer, again.parameters))
    assert all(torch.equal(tensor, found[name]) for name, tensor in trained.items())
    assert any(not torch.equal(tensor, small[name]) for name, tensor in trained.items())


def test_every_element_counts_the_steps_of_its_own_rounds(
    network: Any, channels: ChannelMap, make_context: Any
) -> None:
    context = make_context(ADAMW)
    target = Target.new(network, channels, context.recipe.train)
    counts = {name: torch.zeros_like(tensor) for name, tensor in network.named_parameters()}
    for round_ in range(3):
        plan = channels.random_plan(flops=0.5, seed=round_)
        sub = cut(target, plan, context.recipe.train)
        train_round(sub, context, round_)
        put_back(sub, target)
        taken = channels.take(counts, plan)
        channels.put({name: tensor + context.steps for name, tensor in taken.items()}, counts, plan)
    assert len(counts["wide.weight"].unique()) > 2
    found = target.optimizer["steps"]
    assert all(torch.equal(found[name], expected) for name, expected in counts.items())


def test_rounds_with_every_channel_are_plain_training_with_torchs_adamw(
    network: Any, channels: ChannelMap, make_context: Any
) -> None:
    context = make_context({**ADAMW, "search.importance": "magnitude", "train.precision": "float32"})
    plain, start = (
        to_device(copy.deepcopy(network), context.recipe.train, CPU),
        copy.deepcopy(network.state_dict()),
    )
    target = Target.new(network, channels, context.recipe.train)
    for round_ in range(3):
        sub = cut(target, channels.full_plan, context.recipe.train)
        train_round(sub, context, round_)
        put_back(sub, target)
    batches = stream(
        context.dataset.train,
        16,
        seed=derive(0, "search", "train"),
        start=0,
        count=3 * context.steps,
        augment=True,
    )
    optimizer = optim.make(dict(plain.named_parameters()), context.recipe.train)
    assert isinstance(optimizer, torch.optim.AdamW)
    train_steps(
        plain, batches, optimizer=optimizer, schedule=context.schedule, first_step=0, options=context.options
    )
    # Adam makes whole steps of the smallest gradients, so rounding shows: compared with the way gone.
    for name, tensor in plain.named_parameters():
        way = (tensor - start[name]).norm()
        assert (tensor - dict(network.named_parameters())[name]).norm() < 0.05 * way, name
