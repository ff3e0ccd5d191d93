"""Several budgets in one search: they take turns, train one network, and each gets a plan of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jstc.channels import ChannelMap
from jstc.errors import BudgetError, RunDirectoryError
from jstc.plan import Plan
from jstc.train import handover

TWO = {"flops": [0.4, 0.7]}
LABELS = ("flops0.7", "flops0.4")
EACH = {"plan.json", "subnetwork.safetensors", "result.json"}


def test_budgets_take_turns_from_the_largest_on(searched: Any, channels: ChannelMap) -> None:
    run = searched(TWO)
    assert [record["budget"] for record in run.history] == list(LABELS) * 3
    for record in run.history:
        limit = float(record["budget"].removeprefix("flops")) * channels.cost().flops
        share = 0.7 if record["phase"] == "coarse" else 1.0
        assert 0.9 * share * limit < record["flops"] <= share * limit
    assert [record["overlap"] is None for record in run.history] == [True] * 2 + [False] * 4


def test_every_budget_has_a_folder_with_a_plan_of_its_own(searched: Any, channels: ChannelMap) -> None:
    run = searched(TWO)
    assert tuple(run.plans) == LABELS
    counts = []
    for label in LABELS:
        part = run.at(label)
        assert {path.name for path in part.directory.iterdir()} == EACH
        assert Plan.load(part.directory / "plan.json") == part.plan
        assert handover.load_subnetwork(part.directory / "subnetwork.safetensors", plan=part.plan).step == 24
        assert part.result["flops"] == channels.cost(part.plan).flops
        assert part.result["flops"] <= part.recipe.budget["flops"] * channels.cost().flops
        counts.append(sum(part.plan.counts.values()))
    assert counts[0] > counts[1]


def test_what_the_budgets_share_is_in_the_result_of_all(searched: Any) -> None:
    run = searched(TWO)
    names = {path.name for path in run.directory.iterdir()}
    assert names == {"history.jsonl", "checkpoint.safetensors", "result.json", *LABELS}
    assert (run.result["rounds"], run.result["steps"], run.result["images_seen"]) == (6, 24, 6 * 6 * 16)
    assert "accuracy" not in run.result
    for label in LABELS:
        result = run.at(label).result
        assert run.result.items() <= result.items()
        own = {"accuracy", "validation_images", "round_of_plan", "flops", "params"}
        assert own == result.keys() - run.result.keys()


def test_a_single_budget_has_no_folder(searched: Any, run_search: Any, tmp_path: Path) -> None:
    single = searched()
    assert {path.name for path in single.directory.iterdir()} == EACH | {
        "history.jsonl",
        "checkpoint.safetensors",
    }
    assert run_search(tmp_path, {"flops": [0.5]}).files == single.files


def test_the_teacher_is_written_for_each_budget(searched: Any) -> None:
    run = searched(TWO | {"finetune.teacher": "target"})
    teachers = {(run.directory / label / "target.safetensors").read_bytes() for label in LABELS}
    assert len(teachers) == 1


@pytest.mark.parametrize("calls", [1, 4, 6, 8])
def test_broken_off_and_called_again_it_ends_the_same(
    run_search: Any, power_cut: Any, searched: Any, tmp_path: Path, calls: int
) -> None:
    """After an odd and an even round, after the last, and while the first budget's plan is chosen."""
    with power_cut(calls=calls) as progress:
        run_search(tmp_path, TWO, progress=progress)
    again, whole = run_search(tmp_path, TWO), searched(TWO)
    assert shared(again) == shared(whole)
    for label in LABELS:
        assert without_seconds(again.at(label).result) == without_seconds(whole.at(label).result)
        for name in ("plan.json", "subnetwork.safetensors"):
            mine, theirs = (run.directory / label / name for run in (again, whole))
            assert mine.read_bytes() == theirs.read_bytes()


def without_seconds(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "seconds"}


def shared(run: Any) -> str:
    return json.dumps([without_seconds(record) for record in [*run.history, run.result]])


@pytest.mark.parametrize(
    "budgets", [{"flops": 0.7}, {"flops": [0.7, 0.3]}, {"flops": [0.7, 0.5, 0.4]}], ids=str
)
def test_a_checkpoint_of_other_budgets_is_refused(
    run_search: Any, searched: Any, tmp_path: Path, budgets: dict[str, Any]
) -> None:
    shutil.copy(searched(TWO).directory / "checkpoint.safetensors", tmp_path)
    with pytest.raises(RunDirectoryError, match=r"another search \(flops differ\)"):
        run_search(tmp_path, budgets)


def test_one_budget_out_of_reach_is_refused(run_search: Any, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="smallest reachable"):
        run_search(tmp_path, {"flops": [0.5, 0.001]})
    assert not (tmp_path / "history.jsonl").exists()
