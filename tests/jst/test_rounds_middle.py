"""A search broken off in the middle of a round goes on there; one that diverges goes back to its start."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from jstc.core.progress import Silent
from jstc.core.signals import interruptible
from jstc.errors import DivergedError, StageError
from jstc.jst import rounds
from jstc.jst.round import train_round
from jstc.train import checkpoint
from jstc.train.metrics import TrainingMonitor

NAME = "checkpoint.safetensors"
EVERY_STEP = {"checkpoint.every_steps": 1}


class PowerCutError(Exception):
    pass


class Messages(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def after_steps(monkeypatch: pytest.MonkeyPatch, number: int, happens: Any) -> None:
    """Let something happen after so many training steps, before anything is saved there."""
    calls, after_step = iter(range(1, 10_000)), TrainingMonitor.after_step

    def call(monitor: TrainingMonitor, *given: Any) -> None:
        if next(calls) == number:
            happens()
        after_step(monitor, *given)

    monkeypatch.setattr(TrainingMonitor, "after_step", call)


def cut_power() -> None:
    raise PowerCutError


def broken_off(
    run_search: Any, directory: Path, monkeypatch: pytest.MonkeyPatch, steps: int, changes: dict[str, Any]
) -> bool:
    """Whether the power was cut before the search came to its end."""
    with monkeypatch.context() as patch:
        after_steps(patch, steps, cut_power)
        try:
            run_search(directory, EVERY_STEP | changes)
        except PowerCutError:
            return True
    return False


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.optimizer": "adamw", "train.lr": 0.01, "train.momentum": None, "train.nesterov": None},
        {"flops": [0.7, 0.5], "search.candidates": 1},
    ],
    ids=["sgd", "adamw", "two budgets"],
)
def test_broken_off_in_the_middle_of_rounds_it_ends_the_same(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    pauses = 0
    while broken_off(run_search, tmp_path, monkeypatch, 6, changes):
        pauses += 1
    assert pauses == 4  # 24 steps, of which each sitting but the last finishes five
    for label in [""] if "flops" not in changes else ["flops0.7", "flops0.5"]:
        for name in ("plan.json", "subnetwork.safetensors"):
            expected = searched(changes).directory / label / name
            assert (tmp_path / label / name).read_bytes() == expected.read_bytes()
    assert history(tmp_path) == history(searched(changes).directory)
    assert [path.name for path in tmp_path.glob("*.safetensors") if path.stem.startswith("check")] == [NAME]


def history(directory: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (directory / "history.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_short_rounds_write_nothing_in_the_middle(run_search: Any, tmp_path: Path) -> None:
    saved: list[bool] = []

    class Watching(Silent):
        def update(self, done: int, **figures: float) -> None:
            if done:
                saved.append("middle" in checkpoint.load(tmp_path / NAME)[1])

    run_search(tmp_path, {"search.rounds": 3}, progress=Watching())
    assert saved[:3] == [False, False, False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_the_middle_of_a_round_and_ends(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        after_steps(patch, 11, lambda: os.kill(os.getpid(), number))
        with interruptible(), pytest.raises(KeyboardInterrupt):
            run_search(tmp_path)
    signal.signal(signal.SIGINT, before)
    meta = checkpoint.load(tmp_path / NAME)[1]
    assert (meta["round"], meta["middle"]["part"], meta["middle"]["sums"]["batches"]) == (2, 1, 1)
    steps: list[int] = []
    after_steps(monkeypatch, 1, lambda: steps.append(1))
    assert run_search(tmp_path).files == searched().files


def test_a_signal_while_a_sub_network_is_judged_keeps_its_training(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = rounds.evaluate_round

    def interrupted(sub: Any, *rest: Any) -> Any:
        judge(sub, *rest)  # the statistics are others now
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "evaluate_round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_search(tmp_path)
    assert checkpoint.load(tmp_path / NAME)[1]["middle"]["part"] == 2
    assert run_search(tmp_path).files == searched().files


def test_a_damaged_checkpoint_costs_a_round_and_changes_nothing(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broken_off(run_search, tmp_path, monkeypatch, 14, {"checkpoint.every_steps": None})
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data[: len(data) // 2])
    messages = Messages()
    assert run_search(tmp_path, progress=messages).files == searched().files
    assert len(messages.texts) == 1
    assert messages.texts[0].endswith("going on from checkpoint.1.safetensors")


def spoil_once(monkeypatch: pytest.MonkeyPatch, times: int) -> list[float]:
    """Let the first `times` rounds number 2 diverge; the learning rates at which they were tried."""
    rates: list[float] = []
    train = train_round

    def spoiled(sub: Any, context: Any, round_: int, **options: Any) -> Any:
        figures = train(sub, context, round_, **options)
        if round_ == 2:
            rates.append(context.schedule.base)
            if len(rates) <= times:
                with torch.no_grad():
                    sub.gated.network.fc.weight.fill_(float("nan"))
                raise DivergedError("before step 12 of 32: the loss is nan", lr=context.schedule.base)
        return figures

    monkeypatch.setattr(rounds, "train_round", spoiled)
    return rates


def test_a_round_that_diverges_starts_again_with_a_lower_rate(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = Messages()
    rates = spoil_once(monkeypatch, 2)
    run = run_search(tmp_path, progress=messages)
    assert rates == [0.1, 0.05, 0.025]
    assert [text.partition(";")[2] for text in messages.texts] == [
        " going back to the start of round 3, and on with the learning rates of train.lr 0.05 instead of 0.1 "
        "(1 of at most 3 times)",
        " going back to the start of round 3, and on with the learning rates of train.lr 0.025 instead of "
        "0.05 (2 of at most 3 times)",
    ]
    plain = searched().history
    assert run.history[1]["loss"] == plain[1]["loss"]
    assert [a["plan_hash"] for a in run.history[:3]] == [a["plan_hash"] for a in plain[:3]]
    assert [a["lr"] / b["lr"] for a, b in zip(run.history, plain, strict=True)] == [1, 1, *[0.25] * 4]
    assert run.result["rollbacks"] == 2
    assert all(tensor.isfinite().all() for tensor in run.target.state_dict().values())


def test_a_search_resumed_after_a_rollback_keeps_the_lower_rate(
    run_search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        spoil_once(patch, 1)
        whole = run_search(tmp_path / "whole")
    with monkeypatch.context() as patch:
        spoil_once(patch, 1)
        after_steps(patch, 18, cut_power)  # in round 3, a step after that of a save
        with pytest.raises(PowerCutError):
            run_search(tmp_path / "broken", EVERY_STEP)
    assert checkpoint.load(tmp_path / "broken" / NAME)[1]["rollbacks"] == 1
    assert run_search(tmp_path / "broken").files == whole.files


def test_a_search_that_goes_on_diverging_says_what_was_tried(run_search: Any, tmp_path: Path) -> None:
    with pytest.raises(StageError) as error:
        run_search(tmp_path, {"train.lr": 1e30, "train.max_rollbacks": 2})
    text = str(error.value)
    assert "diverged before step" in text
    assert "so it did from the start of round 1 at every train.lr tried (1e+30, 5e+29, 2.5e+29)" in text
    assert text.endswith("try a lower train.lr (now 1e+30), a longer train.warmup_epochs, or train.clip_norm")


def test_without_rollbacks_the_first_divergence_ends_it(run_search: Any, tmp_path: Path) -> None:
    messages = Messages()
    with pytest.raises(StageError, match=r"diverged before step \d+ of 32: .*; try a lower train\.lr"):
        run_search(tmp_path, {"train.lr": 1e30, "train.max_rollbacks": 0}, progress=messages)
    assert messages.texts == []
