"""search.compile: which rounds go through torch.compile, and that nothing else changes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from jstc.errors import InputError
from jstc.train.device import require_compiler

LASTING = {"search.recency_bonus": 50.0, "search.coarse_share": 0.6, "search.rounds": 5}
CHANGING = {"search.recency_bonus": 0.0, "search.noise_period": 1, "search.coarse_share": 0.0}


def repeats(history: list[dict[str, Any]]) -> int:
    """Rounds whose network is as wide as the one before."""
    return sum(before["counts"] == after["counts"] for before, after in pairwise(history))


@pytest.mark.parametrize("importance", ["learned", "magnitude"])
@pytest.mark.parametrize("settings", [LASTING, CHANGING], ids=["lasting", "changing"])
def test_rounds_as_wide_as_the_one_before_are_compiled(
    searched: Any,
    run_search: Any,
    tmp_path: Path,
    no_backend: list[Any],
    settings: dict[str, Any],
    importance: str,
) -> None:
    steps = {"search.importance": importance, "search.gate_steps": 1}
    plain = searched(settings | steps)
    run = run_search(tmp_path, settings | steps | {"search.compile": True})
    assert len(no_backend) == repeats(run.history)
    if settings is LASTING:
        assert 2 <= repeats(run.history) < len(run.history) - 1  # the step to the budget among them
    for ours, theirs in zip(run.history, plain.history, strict=True):
        assert ours["plan_hash"] == theirs["plan_hash"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


@pytest.mark.slow
def test_networks_as_wide_as_one_before_are_compiled_once(run_search: Any, tmp_path: Path) -> None:
    """By the real compiler, which a second compilation would make an error of."""
    try:
        require_compiler(torch.device("cpu"), key="search.compile")
    except InputError as error:
        pytest.skip(str(error))
    torch._dynamo.reset()
    settings = LASTING | {"search.coarse_share": 1.0, "search.compile": True}
    with torch._dynamo.config.patch(error_on_recompile=True):
        run = run_search(tmp_path, settings)
    assert repeats(run.history) >= 3


@pytest.mark.parametrize("flops", [0.5, [0.5, 0.4]], ids=str)
def test_a_compiled_search_broken_off_ends_the_same(
    run_search: Any, power_cut: Any, tmp_path: Path, no_backend: list[Any], flops: Any
) -> None:
    """Each budget's rounds are compared with those of the same budget, in whichever process they ran."""
    settings = LASTING | {"search.compile": True, "flops": flops, "search.rounds": 7}
    whole = run_search(tmp_path / "whole", settings)
    compiled = len(no_backend)
    with power_cut(3) as progress:
        run_search(tmp_path / "broken", settings, progress=progress)
    again = run_search(tmp_path / "broken", settings)
    assert len(no_backend) == 2 * compiled
    keys = ("round", "plan_hash", "loss", "accuracy")
    assert [[r[k] for k in keys] for r in again.history] == [[r[k] for k in keys] for r in whole.history]
    labels = {record["budget"] for record in whole.history}
    each = [[r for r in whole.history if r["budget"] == label] for label in labels]
    assert 0 < compiled == sum(map(repeats, each))
