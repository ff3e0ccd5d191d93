"""A real run, its workers and their signals: `benchmarks.robustness.signals` in short."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks import children
from benchmarks.robustness.signals.run import Outcome, make_images, recipe, signalled
from tests.helpers.children import environment


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts a run with worker processes, and sends a signal to all of them in the middle of an epoch."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    found = recipe(tmp_path / "recipe.yaml", make_images(tmp_path / "photos"), workers=2)
    found.write_text(
        found.read_text().replace("epochs: 2", "epochs: 50").replace("batch_size: 8", "batch_size: 2")
    )

    def run(number: int, times: int) -> Outcome:
        return signalled(found, tmp_path, number, after="baseline", times=times)

    return run


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes")
def test_a_signal_to_the_group_saves_what_there_is(run) -> None:
    """Twice at once, as `timeout` sends it."""
    outcome = run(signal.SIGTERM, 2)
    assert (outcome.place, outcome.code, outcome.saved, outcome.problems) == ("baseline", 130, True, [])


@pytest.mark.slow
def test_at_any_moment_with_and_without_workers() -> None:
    command = children.command("benchmarks.robustness.signals", "--times=2", "--resume=2")
    done = subprocess.run(command, check=False, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
