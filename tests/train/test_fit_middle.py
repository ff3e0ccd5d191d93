"""An epoch broken off in the middle goes on there; one that diverges goes back to its start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jstc.core.progress import Silent
from jstc.errors import DivergedError
from jstc.recipe.schema import CheckpointSettings, TrainSettings
from jstc.train import checkpoint, device, fit, loop
from jstc.train.job import FitResult, Job
from jstc.train.metrics import RunningMetrics, TrainingMonitor
from jstc.train.optim import set_learning_rate
from jstc.train.schedule import Schedule

PRECISION = device.precision(TrainSettings(), torch.device("cpu"))

Make = Callable[[], nn.Module]
NAME = "checkpoint.safetensors"


class Stop(BaseException):
    """Stands for a kill."""


class Messages(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def job(network: nn.Module, split: Any, **changes: Any) -> Job:
    plain = Job(
        network=network,
        split=split,
        settings=TrainSettings(batch_size=16, lr=0.05),
        schedule=Schedule(base=0.05, total=12),
        steps_per_epoch=4,
        seed=1,
        first_step=2,
        checkpoint=CheckpointSettings(every_steps=1),
    )
    return dataclasses.replace(plain, **changes)


def train(job: Job, directory: Path, progress: Any = None) -> FitResult:
    return fit.fit(job, directory=directory, progress=progress or Silent(), stage="x")


def stop_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Kill the training after so many steps, before anything is saved there."""
    calls, after_step = iter(range(1, 1000)), TrainingMonitor.after_step

    def call(monitor: TrainingMonitor, *given: Any) -> None:
        if next(calls) == number:
            raise Stop
        after_step(monitor, *given)

    monkeypatch.setattr(TrainingMonitor, "after_step", call)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("sitting", [2, 3, 4])
@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.5}, {"settings": TrainSettings(batch_size=16, optimizer="adamw", lr=0.01)}],
    ids=["sgd", "averaged", "adamw"],
)
def test_an_epoch_broken_off_anywhere_ends_the_same_bit_for_bit(
    make_network: Make,
    split: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sitting: int,
    changes: dict[str, Any],
) -> None:
    whole = make_network()
    unbroken = train(job(whole, split, **changes), tmp_path / "a")
    result, network = None, make_network()
    while result is None:
        network = make_network()
        with monkeypatch.context() as patch:
            stop_after(patch, sitting)
            try:
                result = train(job(network, split, **changes), tmp_path / "b")
            except Stop:
                continue
    assert same(whole, network)
    assert (tmp_path / "a/history.jsonl").read_text() == (tmp_path / "b/history.jsonl").read_text()
    assert [result.images, result.loss] == [unbroken.images, unbroken.loss]
    tensors = [checkpoint.load(tmp_path / part / NAME)[0] for part in "ab"]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [NAME, "history.jsonl"]


def test_what_is_saved_in_the_middle_is_not_trained_again(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 7)  # the second epoch's third step: two of it are saved
        with pytest.raises(Stop):
            train(job(make_network(), split), tmp_path)
    meta = checkpoint.load(tmp_path / NAME)[1]
    assert (meta["state"]["epoch"], meta["middle"]["batches"]) == (1, 2)
    steps: list[float] = []
    plain = set_learning_rate
    monkeypatch.setattr(loop, "set_learning_rate", lambda o, rate: (steps.append(rate), plain(o, rate)))
    train(job(make_network(), split), tmp_path)
    assert len(steps) == 10 - 6


def spoiled(monkeypatch: pytest.MonkeyPatch, *at: int) -> None:
    """Let the losses of training steps with these numbers, in the order in which they are made, be NaN."""
    calls, add = iter(range(1, 1000)), RunningMetrics.add

    def call(metrics: RunningMetrics, loss: Any, scores: Any, labels: Any) -> None:
        add(metrics, loss * float("nan") if next(calls) in at else loss, scores, labels)

    monkeypatch.setattr(RunningMetrics, "add", call)


def test_an_epoch_that_diverges_starts_again_with_a_lower_rate(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = job(make_network(), split, checkpoint=CheckpointSettings())
    messages = Messages()
    spoiled(monkeypatch, 6)
    result = train(plain, tmp_path, messages)
    assert messages.texts == [
        f"training in {PRECISION} diverged before step 10 of 12: the loss is nan; going back to the start of "
        "epoch 2, and on with the learning rates of train.lr 0.025 instead of 0.05 (1 of at most 3 times)"
    ]
    lines = (tmp_path / "history.jsonl").read_text()
    assert '"lr": %r' % (plain.schedule.at(9) / 2) in lines
    assert result.rollbacks == 1 and result.images == 160

    # The same as a training that had the lower rate from there on.
    state = checkpoint.load(tmp_path / NAME)[1]["state"]
    assert (state["epoch"], state["rollbacks"]) == (3, 1)
    assert all(tensor.isfinite().all() for tensor in plain.module.state_dict().values())


def test_killed_after_a_rollback_it_ends_the_same(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = make_network(), make_network()
    with monkeypatch.context() as patch:
        spoiled(patch, 6)
        train(job(whole, split), tmp_path / "a")
    with monkeypatch.context() as patch:
        spoiled(patch, 6)
        stop_after(patch, 8)
        with pytest.raises(Stop):
            train(job(make_network(), split), tmp_path / "b")
    assert checkpoint.load(tmp_path / "b" / NAME)[1]["state"]["rollbacks"] == 1
    train(job(broken, split), tmp_path / "b")
    assert same(whole, broken)
    assert (tmp_path / "a/history.jsonl").read_text() == (tmp_path / "b/history.jsonl").read_text()


def test_resumed_in_the_middle_it_goes_back_to_the_start_of_the_epoch(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = make_network(), make_network()
    with monkeypatch.context() as patch:
        spoiled(patch, 8)
        train(job(whole, split), tmp_path / "a")
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Stop):
            train(job(make_network(), split), tmp_path / "b")
    spoiled(monkeypatch, 2)  # the eighth in all
    messages = Messages()
    train(job(broken, split), tmp_path / "b", messages)
    assert "going back to the start of epoch 2" in messages.texts[0]
    assert same(whole, broken)
    assert (tmp_path / "a/history.jsonl").read_text() == (tmp_path / "b/history.jsonl").read_text()


def test_infinite_weights_are_noticed_before_they_are_saved(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, plain, calls = make_network(), loop.train_steps, iter(range(100))

    def spoiling(*args: Any, **options: Any) -> Any:
        figures = plain(*args, **options)
        if next(calls) == 1:
            with torch.no_grad():
                network.get_parameter("fc.weight")[0, 0] = float("inf")
        return figures

    monkeypatch.setattr(fit, "train_steps", spoiling)
    messages = Messages()
    assert train(job(network, split), tmp_path, messages).rollbacks == 1
    assert "before step 10 of 12: weights or statistics are infinite; going back" in messages.texts[0]
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(tmp_path / NAME)[0].values())


def test_after_the_limit_it_says_what_was_tried(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, *range(5, 1000))
    with pytest.raises(DivergedError) as error:
        train(job(make_network(), split), tmp_path)
    tried = "so it did from the start of epoch 2 at every train.lr tried (0.05, 0.025, 0.0125, 0.00625)"
    assert tried in str(error.value)
    assert checkpoint.load(tmp_path / NAME)[1]["state"]["epoch"] == 1


def test_a_long_epoch_that_diverges_is_not_trained_to_its_end(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jstc.train.metrics._LOOK_EVERY", 2)
    spoiled(monkeypatch, 2)
    messages = Messages()
    long = {"schedule": Schedule(0.05, 12), "steps_per_epoch": 10, "checkpoint": CheckpointSettings()}
    train(job(make_network(), split, **long), tmp_path, messages)
    assert messages.texts[0].startswith(
        f"training in {PRECISION} diverged before step 4 of 12: the loss is not finite;"
    )


def test_every_so_many_seconds_too(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    after_step = TrainingMonitor.after_step

    def tick(monitor: TrainingMonitor, *given: Any) -> None:
        now[0] += 4
        after_step(monitor, *given)

    monkeypatch.setattr(TrainingMonitor, "after_step", tick)
    monkeypatch.setattr("jstc.train.metrics.time.monotonic", lambda: now[0])
    saved: list[float] = []
    write = fit._Training._write_middle
    monkeypatch.setattr(
        fit._Training, "_write_middle", lambda self, sums: (saved.append(now[0]), write(self, sums))
    )
    train(job(make_network(), split, checkpoint=CheckpointSettings(every_seconds=10)), tmp_path)
    # Epochs end, and are saved, at 16, 32 and 40 seconds.
    assert saved == [12.0, 28.0]
