"""A whole run of two budgets, small: a network of the user's own on the digits at 8 pixels."""

from __future__ import annotations

import json
import shutil

import pytest

import jstc
from jstc.core import files
from jstc.errors import RunDirectoryError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs import commands, evaluation

SETTINGS = [
    "baseline=true", "device=cpu", "threads=1", "input.image_size=8", "train.batch_size=32", "train.lr=0.05",
    "search.rounds=4", "search.steps_per_round=2", "search.eval_images=64", "search.importance=learned",
    "search.coarse_share=0.34",
    "search.recalibration_images=64", "finetune.epochs=1", "finetune.steps_per_epoch=3",
    "finetune.teacher=target", "bench.batch_sizes=[1]", "bench.seconds=0.05", "bench.provider=cpu",
    "export.parity_images=8",
]  # fmt: skip
LABELS = ["flops0.7", "flops0.4"]


@pytest.fixture(scope="module")
def recipe(network):
    return loading.from_flags({"model": network, "dataset": "digits", "flops": "0.4,0.7"}, SETTINGS)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return commands.run(recipe, out=path, command="jstc run x.yaml")


def read(path):
    return json.loads(path.read_text())


def test_the_directory_is_the_documented_one(finished):
    written = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert written >= {
        "recipe.yaml", "manifest.json", "target.json", "summary.json", "report.md", "report/pareto.svg",
        "baseline/model.safetensors", "search/history.jsonl", "search/checkpoint.safetensors",
        "search/result.json",
    }  # fmt: skip
    for label in LABELS:
        assert {name.removeprefix(f"{label}/") for name in written if name.startswith(label)} >= {
            "recipe.yaml", "manifest.json", "target.json", "summary.json", "report.md",
            "baseline/result.json", "search/plan.json", "search/history.jsonl", "search/target.safetensors",
            "finetune/subnetwork.safetensors", "slim/model.safetensors", "export/model.onnx",
            "bench/bench.json",
        }  # fmt: skip
    assert not [name for name in written if ".tmp-" in name]


def test_every_budget_is_kept_and_its_figures_are_its_own(finished):
    summary = read(finished / "summary.json")
    assert [row["label"] for row in summary["sweep"]] == LABELS
    assert [row["budget"]["share"] for row in summary["sweep"]] == pytest.approx([0.7, 0.4], abs=1e-4)
    for row, label in zip(summary["sweep"], LABELS, strict=True):
        own = read(finished / label / "summary.json")
        assert row["slim"] == own["slim"]
        assert row["slim"]["flops"] <= row["budget"]["limit"]
        assert own["target"] == summary["target"]
        assert own["search"]["shared_by"] == LABELS
        assert any("was one for all of flops0.7, flops0.4." in note for note in own["notes"])
        network = jstc.load(finished / label / "slim", allow_code=True)
        assert sum(parameter.numel() for parameter in network.parameters()) == row["slim"]["params"]
    assert summary["target"]["accuracy"] is not None
    assert summary["seconds"]["search"] > 0


def test_the_budgets_share_one_search(finished):
    rounds = (finished / "search" / "history.jsonl").read_text()
    assert len(rounds.splitlines()) == 4
    plans = []
    for label in LABELS:
        assert (finished / label / "search" / "history.jsonl").read_text() == rounds
        plans.append(Plan.load(finished / label / "search" / "plan.json"))
        assert (
            json.loads((finished / label / "slim" / "model.json").read_text())["plan_hash"] == plans[-1].hash
        )
    assert plans[0].hash != plans[1].hash


def test_a_budgets_run_goes_on_by_itself(recipe, finished):
    path = finished / "flops0.4"
    result = evaluation.evaluate(path, provider="cpu")
    assert result["accuracy"] == read(path / "summary.json")["onnx"][0]["accuracy"]
    exported = (path / "export" / "model.onnx").read_bytes()
    commands.run_stage(path, "export", recipe=recipe.at("flops0.4"), fresh=True)
    assert (path / "export" / "model.onnx").stat().st_size == len(exported)
    commands.run(recipe, out=finished, command="jstc run x.yaml")
    manifest = read(finished / "manifest.json")["stages"]
    assert {record["state"] for record in manifest.values()} == {"done"}
    onnx = manifest["flops0.4"]["artifacts"]["flops0.4/export/model.onnx"]
    assert onnx == files.sha256(path / "export" / "model.onnx")


def test_a_longer_finetune_of_every_budget(recipe, finished, tmp_path):
    path = shutil.copytree(finished, tmp_path / "run")
    longer = loading.load(path / "recipe.yaml", ["finetune.epochs=2"])
    commands.run_stage(path, "finetune", recipe=longer, command="jstc finetune")
    for label in LABELS:
        result = read(path / label / "finetune" / "result.json")
        assert (result["epochs"], result["planned_epochs"]) == (2, 1)
        assert not (path / label / "slim" / "model.safetensors").exists()
        before, after = (history(one / label) for one in (finished, path))
        assert len(after) == 2
        # The rates of the first epoch are those of a run that was to be longer from the start.
        assert after[0]["lr"] > before[0]["lr"]
    searched = "search/checkpoint.safetensors"
    assert (path / searched).read_bytes() == (finished / searched).read_bytes()


def history(run):
    lines = (run / "finetune" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_no_other_finetune_of_budgets_whose_search_is_not_done(recipe, finished, tmp_path):
    path = shutil.copytree(finished, tmp_path / "run")
    manifest = read(path / "manifest.json")
    manifest["stages"]["search"]["state"] = "failed"
    (path / "manifest.json").write_text(json.dumps(manifest))
    before = (path / "recipe.yaml").read_text()
    longer = loading.load(path / "recipe.yaml", ["finetune.epochs=2"])
    with pytest.raises(RunDirectoryError, match="finetune needs the search first"):
        commands.run_stage(path, "finetune", recipe=longer, command="jstc finetune")
    assert (path / "recipe.yaml").read_text() == before
