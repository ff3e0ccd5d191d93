"""Several processes look together: soon enough where steps are slow, and never past an infinite loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jstc.core import signals
from jstc.errors import DivergedError
from jstc.recipe.schema import CheckpointSettings
from jstc.train import collectives
from jstc.train.metrics import RunningMetrics, TrainingMonitor
from jstc.train.schedule import Schedule

SCHEDULE = Schedule(0.1, 1000)
NEVER = CheckpointSettings(every_seconds=None)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, of which the other one always has the same to say."""
    monkeypatch.setattr(collectives, "world", lambda: 2)
    monkeypatch.setattr(collectives, "sums", lambda values: [2.0 * value for value in values])


@pytest.fixture
def pass_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make so many steps that take so many seconds, all with the same loss."""
    now = [0.0]
    monkeypatch.setattr("jstc.train.metrics.time.monotonic", lambda: now[0])

    def pass_steps(
        monitor: TrainingMonitor,
        metrics: RunningMetrics,
        number: int,
        *,
        loss: float = 1.0,
        seconds: float = 0.01,
    ) -> None:
        for _ in range(number):
            now[0] += seconds
            metrics.add(torch.tensor(loss), torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
            monitor.after_step(metrics.batches - 1, metrics, SCHEDULE)

    return pass_steps


@pytest.mark.parametrize("steps_before", [0, 3, 10])
def test_an_infinite_loss_is_noticed_in_any_part(
    pair: None, pass_steps: Callable[..., None], steps_before: int
) -> None:
    monitor = TrainingMonitor(NEVER, lambda: None)
    pass_steps(monitor, RunningMetrics(), steps_before)
    metrics = RunningMetrics()
    with pytest.raises(DivergedError):
        pass_steps(monitor, metrics, 120, loss=float("nan"))
    assert metrics.batches <= 110


@pytest.mark.parametrize(("seconds", "most"), [(3.0, 1), (0.4, 2), (0.01, 10)])
def test_a_stop_waits_for_few_slow_steps_or_ten_quick_ones(
    pair: None,
    pass_steps: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    most: int,
) -> None:
    saved: list[int] = []
    metrics = RunningMetrics()
    monitor = TrainingMonitor(NEVER, lambda: saved.append(metrics.batches))
    pass_steps(monitor, metrics, 40, seconds=seconds)
    monkeypatch.setattr(signals, "stop_requested", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        pass_steps(monitor, metrics, 40, seconds=seconds)
    assert 40 < saved[0] <= 40 + most


def test_a_process_alone_looks_after_every_step(pass_steps: Callable[..., None]) -> None:
    saved: list[int] = []
    settings = CheckpointSettings(every_seconds=None, every_steps=3)
    metrics = RunningMetrics()
    pass_steps(TrainingMonitor(settings, lambda: saved.append(metrics.batches)), metrics, 10)
    assert saved == [3, 6, 9]
