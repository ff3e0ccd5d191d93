"""A `JointSearch` in a loop of its own, killed and started again: `benchmarks.robustness.loop` in short."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks.robustness.loop import __main__ as loop
from benchmarks.robustness.loop import training

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes"),
    # This process has threads, which a child does without.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture
def searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> loop.Searches:
    monkeypatch.setattr(training, "ROUNDS", 1)
    monkeypatch.setattr(training, "STEPS", 2)
    monkeypatch.setattr(training, "CANDIDATES", 3)
    return loop.Searches(tmp_path, trained=False)


def test_killed_and_started_again_a_loop_leaves_the_same_files(
    searches: loop.Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, different = searches.killed("one", ["write", "kill"], random.Random(1))
    assert places and places[0].startswith("in a write")
    assert different == []
    assert {"search/history.jsonl", "slim/model.safetensors", "slim/plan.json"} < set(searches.files)
    monkeypatch.setattr(training, "STEPS", 5)
    places, different = searches.killed("two", [], random.Random(1))
    assert not places
    assert {"search/history.jsonl", "slim/model.safetensors", "rounds that were asked for"} <= set(different)
