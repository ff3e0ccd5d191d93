from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jstc.core.progress import Silent
from jstc.data import Epoch
from jstc.errors import RunDirectoryError, StageError
from jstc.recipe.schema import TrainSettings
from jstc.train import checkpoint, optim
from jstc.train.checkpoint import Checkpoints
from jstc.train.fit import fit
from jstc.train.job import Job
from jstc.train.metrics import History
from jstc.train.schedule import Schedule

Make = Callable[[], nn.Module]


class Stop(BaseException):
    """Stands for a kill."""


class Recorder(Silent):
    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.updates: list[int] = []

    def update(self, done: int, **figures: float) -> None:
        self.updates.append(done)
        if done == self.stop_after:
            raise Stop


def job(network: nn.Module, split: Any, **changes: Any) -> Job:
    plain = Job(
        network=network,
        split=split,
        settings=TrainSettings(batch_size=16, lr=0.05),
        schedule=Schedule(base=0.05, total=12),
        steps_per_epoch=4,
        seed=1,
        first_step=2,
    )
    return dataclasses.replace(plain, **changes)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def equal(first: optim.State, second: optim.State) -> bool:
    mine, theirs = checkpoint.join(**first), checkpoint.join(**second)
    return mine.keys() == theirs.keys() and all(torch.equal(t, theirs[name]) for name, t in mine.items())


def test_it_trains_to_the_end_of_the_schedule(network: nn.Module, split: Any, tmp_path: Path) -> None:
    recorder = Recorder()
    result = fit(job(network, split), directory=tmp_path, progress=recorder, stage="finetune")
    assert (result.epochs, result.steps, result.images) == (3, 10, 160)  # 4 + 4 + 2 steps of 16
    assert recorder.updates == [0, 1, 2, 3]
    lines = History(tmp_path / "history.jsonl", index="epoch").read()
    assert [line["lr"] for line in lines] == [Schedule(0.05, 12).at(step) for step in (5, 9, 11)]
    assert lines[-1]["loss"] == result.loss < lines[0]["loss"]


def test_every_epoch_takes_the_batches_after_those_of_the_last(
    network: nn.Module, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    plain = split.shuffled

    def shuffled(batch_size: int, epoch: Epoch, **rest: Any) -> Any:
        asked.append((epoch.number, epoch.start))
        return plain(batch_size, epoch, **rest)

    monkeypatch.setattr(split, "shuffled", shuffled)
    fit(job(network, split), directory=tmp_path, progress=Silent(), stage="x")
    # Three batches in the split, four steps in an epoch of the training.
    assert asked == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 2), (3, 0)]


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_cut_off_training_ends_the_same_bit_for_bit(
    make_network: Make, split: Any, tmp_path: Path, stop_after: int
) -> None:
    whole, first, second = make_network(), make_network(), make_network()
    unbroken = fit(job(whole, split), directory=tmp_path / "a", progress=Silent(), stage="x")
    with pytest.raises(Stop):
        fit(job(first, split), directory=tmp_path / "b", progress=Recorder(stop_after), stage="x")
    resumed = fit(job(second, split), directory=tmp_path / "b", progress=Silent(), stage="x")
    assert same(whole, second)
    assert equal(unbroken.optimizer, resumed.optimizer)
    assert (tmp_path / "a/history.jsonl").read_text() == (tmp_path / "b/history.jsonl").read_text()
    assert (resumed.images, resumed.loss) == (unbroken.images, unbroken.loss)


def test_a_kill_between_history_and_checkpoint_leaves_no_line_twice(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", kill)
        with pytest.raises(Stop):
            fit(job(make_network(), split), directory=tmp_path, progress=Silent(), stage="x")
    assert len(History(tmp_path / "history.jsonl", index="epoch").read()) == 1
    fit(job(make_network(), split), directory=tmp_path, progress=Silent(), stage="x")
    assert len(History(tmp_path / "history.jsonl", index="epoch").read()) == 3


def test_seconds_add_up_and_a_finished_training_does_nothing(
    make_network: Make, split: Any, tmp_path: Path
) -> None:
    done, again = make_network(), make_network()
    first = fit(job(done, split), directory=tmp_path, progress=Silent(), stage="x")
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    second = fit(job(again, split), directory=tmp_path, progress=Silent(), stage="x")
    assert first.seconds == second.seconds > 0
    assert same(done, again)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 2}, "seed"),
        ({"identity": {"plan_hash": "other"}}, "plan_hash"),
        ({"settings": TrainSettings(batch_size=16, lr=0.04)}, "settings"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(
    make_network: Make, split: Any, tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    fit(job(make_network(), split), directory=tmp_path, progress=Silent(), stage="x")
    with pytest.raises(RunDirectoryError, match=f"another training \\('{key}' was .*--fresh"):
        fit(job(make_network(), split, **changes), directory=tmp_path, progress=Silent(), stage="x")


def test_momentum_is_inherited(make_network: Make, split: Any, tmp_path: Path) -> None:
    plain, pushed = make_network(), make_network()
    ones = {name: torch.ones_like(tensor) for name, tensor in pushed.named_parameters()}
    state = {"momentum": ones}
    fit(job(plain, split), directory=tmp_path / "a", progress=Silent(), stage="x")
    fit(job(pushed, split, optimizer=state), directory=tmp_path / "b", progress=Silent(), stage="x")
    assert not same(plain, pushed)


def test_only_the_inner_module_is_trained_and_saved(network: nn.Module, split: Any, tmp_path: Path) -> None:
    outer = nn.Sequential(network, nn.Linear(3, 3))
    inner, fixed = network.fc.weight.detach().clone(), outer[1].weight.detach().clone()
    result = fit(job(outer, split, trained=network), directory=tmp_path, progress=Silent(), stage="x")
    assert not torch.equal(network.fc.weight, inner)
    assert torch.equal(outer[1].weight, fixed)
    assert result.optimizer["momentum"].keys() == dict(network.named_parameters()).keys()


def test_a_schedule_that_has_ended_is_an_error(network: nn.Module, split: Any, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no steps are left of 12"):
        fit(job(network, split, first_step=12), directory=tmp_path, progress=Silent(), stage="x")
