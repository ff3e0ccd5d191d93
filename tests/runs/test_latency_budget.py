"""Budgets of latency from the search to its result, with timers that know the truth."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest

from jstc.channels.budget import Bound, project, resolve, uniform_counts
from jstc.core import files
from jstc.core.progress import Silent
from jstc.errors import BudgetError, InputError, RunDirectoryError
from jstc.latency import Setting, table
from jstc.ort import sessions
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs import commands, latency_budget, preflight
from jstc.runs.latency_budget import Fitted, quick_onnx
from jstc.runs.stages.train import _keep_latency, _told
from jstc.runs.workspace import PREDICTIONS, StageContext, Workspace

QUICKLY = ["search.rounds=2", "search.steps_per_round=2", "finetune.epochs=1", "finetune.steps_per_epoch=2",
           "channels.round_to=1", "search.recalibration_images=64", "search.eval_images=64",
           "device=cpu"]  # fmt: skip


def kernel_ms(kernel, widths):
    return 1e-5 * math.prod(widths)


class Truth:
    """Networks take the sum of their layers, an overhead, and `surprise` more where they are uneven."""

    def __init__(self):
        self.surprise, self.asked = 0.0, 0

    def milliseconds(self, channels, executions_total, plan):
        counts = channels.counts(plan) / channels.full_counts
        return 1.5 * executions_total(channels.counts(plan)) + 0.05 + self.surprise * float(np.ptp(counts))


@pytest.fixture
def truth(monkeypatch, tmp_path):
    """No real time is measured: what kernels and networks take is computed."""
    found = Truth()

    def total(timer, counts):
        from jstc.latency.kernels import layers

        executions = timer._channels.executions
        sizes = executions.sizes(counts)
        return sum(x.passes * kernel_ms(x.kernel, x.widths(sizes)) for x in layers(executions, 1))

    def milliseconds(timer, plans):
        found.asked += len(plans)
        channels = timer._channels
        every = [
            found.milliseconds(channels, lambda c: total(timer, c), p) for p in [channels.full_plan, *plans]
        ]
        timer._first = every[0]
        return every[1:]

    monkeypatch.setenv("JSTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "measure", lambda k, points, **_: [kernel_ms(k, p) for p in points])
    monkeypatch.setattr(latency_budget.NetworkTimer, "milliseconds", milliseconds)
    return found


@pytest.fixture
def recipe(network):
    def make(latency="0.6", *settings):
        flags = {"model": network, "dataset": "digits", "latency": latency}
        return loading.from_flags(flags, [*QUICKLY, *settings])

    return make


def test_a_search_under_a_budget_of_latency(truth, recipe, tmp_path, messages):
    run = commands.run(recipe(), out=tmp_path / "r", only=["search"], progress=messages)
    result, target = files.read_json(run / "search/result.json"), files.read_json(run / "target.json")
    found, budget = result["latency"], target["budget"]
    assert (budget["metric"], budget["share"]) == ("latency", pytest.approx(0.6, abs=1e-4))
    assert budget["limit"] == pytest.approx(0.6 * target["latency_ms"], abs=1e-5)
    assert found["predicted_ms"] <= budget["limit"] * 1.001
    assert 0.9 * budget["limit"] <= found["measured_ms"] <= 1.01 * budget["limit"]
    assert (found["provider"], found["batch"], found["corrections"]) == ("cpu", 1, 0)
    assert found["target_ms"] == pytest.approx(target["latency_ms"])
    assert any("ms measured" in text and "too much" not in text for text in messages.texts)


def test_a_search_goes_on_with_the_predictions_it_began_with(truth, recipe, tmp_path):
    run = commands.run(recipe(), out=tmp_path / "r", only=["search"])
    kept, asked = (run / PREDICTIONS).read_bytes(), truth.asked
    for path in (tmp_path / "cache").rglob("*.json"):
        path.unlink()
    workspace = Workspace(recipe())
    workspace.belongs_to(run)
    limit = workspace.budgets["latency0.6"].on("latency").shown_limit
    assert limit == pytest.approx(files.read_json(run / "target.json")["budget"]["limit"], abs=1e-5)
    assert truth.asked == asked
    assert (run / PREDICTIONS).read_bytes() == kept
    (run / PREDICTIONS).write_text(json.dumps({"format": 1}))
    again = Workspace(recipe())
    again.belongs_to(run)
    with pytest.raises(RunDirectoryError, match=r"latency\.json is damaged or of another network"):
        _ = again.budgets


def test_a_search_that_goes_on_keeps_the_targets_time(truth, recipe, tmp_path, monkeypatch):
    run = commands.run(recipe(), out=tmp_path / "r", only=["search"])
    workspace = Workspace(recipe())
    workspace.belongs_to(run)
    before = files.read_json(run / "search/result.json")["latency"]["target_ms"]
    monkeypatch.setattr(latency_budget.NetworkTimer, "milliseconds", lambda *_: pytest.fail("measured again"))
    assert workspace.latency.timer.target_ms == pytest.approx(before, rel=1e-5)


def test_starting_over_takes_nothing_from_the_search_before(truth, recipe, tmp_path):
    run = commands.run(recipe(), out=tmp_path / "r", only=["search"])
    commands.run(recipe("0.6", "latency_on.batch=2"), out=run, only=["search"], fresh=True)
    assert files.read_json(run / PREDICTIONS)["setting"]["batch"] == 2
    assert files.read_json(run / "search/result.json")["latency"]["batch"] == 2
    (run / PREDICTIONS).write_text("[]")
    with pytest.raises(RunDirectoryError, match=r"use --fresh"):
        commands.run(recipe("0.6", "latency_on.batch=2"), out=run, only=["search"])
    commands.run(recipe("0.6", "latency_on.batch=2"), out=run, only=["search"], fresh=True)
    assert files.read_json(run / PREDICTIONS)["format"] == 1


def test_later_stages_need_no_provider_of_the_search(truth, recipe, tmp_path, monkeypatch):
    settings = ("0.6", "latency_on.provider=cuda")
    monkeypatch.setattr(sessions, "cuda_problem", lambda: None)
    run = commands.run(recipe(*settings), out=tmp_path / "r", only=["search"])
    monkeypatch.setattr(sessions, "cuda_problem", lambda: "there is none")
    workspace = Workspace(recipe(*settings))
    preflight.check(workspace, run)
    assert workspace.latency.timer.setting.provider == "cuda"
    with pytest.raises(InputError, match="provider 'cuda' cannot be used here"):
        _keep_latency(StageContext(workspace, run, run / "search", Silent()))


def test_a_directory_of_another_run_is_refused_before_anything_is_measured(truth, recipe, network, tmp_path):
    flags = {"model": network, "dataset": "digits", "flops": "0.5"}
    run = commands.run(loading.from_flags(flags, QUICKLY), out=tmp_path / "r", only=["search"])
    with pytest.raises(RunDirectoryError, match="belongs to a run with other settings"):
        commands.run(recipe(), out=run, only=["search"])
    assert truth.asked == 0


@pytest.mark.parametrize(
    ("measured", "said"), [(1.2, "20 % too much"), (0.8, "20 % less than allowed"), (0.97, "of 1 ms")]
)
def test_a_missed_budget_is_told(measured, said):
    found = Fitted(Plan.full({"a": 8}), 0.99, measured, 2.0, 0)
    assert _told(found, Bound("latency", 1_000_000, 0.5)).endswith(said)


@pytest.mark.parametrize("surprise", [0.3, -0.3])
def test_a_plan_that_misses_its_budget_is_corrected(truth, recipe, surprise):
    workspace = Workspace(recipe())
    latency = workspace.latency
    bounds = latency.bounds(workspace.recipe)
    budget = resolve(latency.channels, workspace.recipe.budget, bounds)
    limit, groups = budget.on("latency").shown_limit, latency.channels.groups
    steep = [np.arange(1, g.width + 1) / g.width * (1 + n) for n, g in enumerate(groups)]
    counts = project(latency.channels, steep, budget, bounds).tolist()
    plan = Plan(
        {g.name: tuple(range(n)) for g, n in zip(groups, counts, strict=True)}, latency.channels.widths
    )
    truth.surprise = surprise * limit
    [before] = latency.timer.milliseconds([plan])
    fitted = latency.fit(plan, [np.arange(g.width)[::-1] for g in groups], budget, bounds)
    distance = abs(fitted.measured_ms / limit - 1)
    assert distance < abs(before / limit - 1)
    assert fitted.corrections > 0
    assert fitted.measured_ms <= 1.02 * limit
    assert all(max(fitted.plan.kept[g.name]) == g.width - 1 for g in groups)  # the best channels are kept


@pytest.mark.parametrize(("latency", "flops", "tight"), [("0.6", 0.9, "latency"), ("0.9", 0.5, "flops")])
def test_a_search_within_a_latency_and_flops(truth, recipe, tmp_path, latency, flops, tight):
    run = commands.run(recipe(latency, f"flops={flops}"), out=tmp_path / "r", only=["search"])
    result, target = files.read_json(run / "search/result.json"), files.read_json(run / "target.json")
    limits = {bound["metric"]: bound["limit"] for bound in target["budget"]["bounds"]}
    used = {"flops": result["flops"] / limits["flops"],
            "latency": result["latency"]["measured_ms"] / limits["latency"]}  # fmt: skip
    assert list(limits) == ["flops", "latency"]
    assert limits["flops"] == int(flops * target["flops"])
    assert used["flops"] <= 1 and used["latency"] <= 1.01
    assert max(used, key=used.get) == tight and used[tight] > 0.9
    if tight == "flops":  # it may take longer, but not be larger: there is nothing to correct
        assert used["latency"] < 0.9 and result["latency"]["corrections"] == 0


@pytest.mark.parametrize(("room", "corrected"), [(1.04, False), (1.15, True)])
def test_a_plan_that_is_faster_than_thought_grows_up_to_its_other_bounds(truth, recipe, room, corrected):
    workspace = Workspace(recipe())
    latency = workspace.latency
    bounds, groups = latency.bounds(workspace.recipe), latency.channels.groups
    alone = resolve(latency.channels, workspace.recipe.budget, bounds)
    counts = uniform_counts(latency.channels, alone, bounds)
    plan, flops = latency._plan(counts), latency.channels.cost_of_counts(counts).flops
    both = resolve(latency.channels, {"flops": room * flops, **workspace.recipe.budget}, bounds)
    slower = truth.milliseconds
    truth.milliseconds = lambda *seen: 0.7 * slower(*seen)
    every = [np.arange(g.width) for g in groups]
    within, freely = (latency.fit(plan, every, budget, bounds) for budget in (both, alone))
    assert latency.channels.cost(freely.plan).flops > room * flops
    assert (within.corrections > 0) is corrected
    assert (latency.channels.cost(within.plan).flops > flops) is corrected
    assert latency.channels.cost(within.plan).flops <= room * flops


def test_several_budgets_share_one_calibration(truth, recipe, tmp_path):
    run = commands.run(recipe("0.7,0.5"), out=tmp_path / "r", only=["search"])
    shared = files.read_json(run / "search/result.json")["budgets"]
    assert set(shared) == {"latency0.7", "latency0.5"}
    for label, figures in shared.items():
        own = files.read_json(run / label / "search/result.json")
        limit = files.read_json(run / label / "target.json")["budget"]["limit"]
        assert own["latency"] == figures["latency"]
        assert 0.85 * limit <= own["latency"]["measured_ms"] <= 1.05 * limit
        assert (run / label / PREDICTIONS).read_bytes() == (run / PREDICTIONS).read_bytes()


def test_out_of_reach_is_found_before_training(truth, recipe, tmp_path):
    with pytest.raises(
        BudgetError, match=r"no sub-network meets latency .* the smallest reachable takes .* ms"
    ):
        commands.run(recipe("0.001"), out=tmp_path / "r", only=["search"])
    assert not (tmp_path / "r").exists()


def test_a_provider_that_is_not_there_is_found_before_anything(truth, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "cuda_problem", lambda: "there is none")
    with pytest.raises(InputError, match=r"provider 'cuda' cannot be used here: there is none"):
        commands.run(recipe("0.5", "latency_on.provider=cuda"), out=tmp_path / "r", only=["search"])
    assert (truth.asked, (tmp_path / "r").exists()) == (0, False)


def test_other_budgets_measure_nothing(truth, network, tmp_path):
    recipe = loading.from_flags({"model": network, "dataset": "digits", "flops": "0.5"}, QUICKLY)
    workspace = Workspace(recipe)
    assert workspace.latency is None
    assert workspace.costed is workspace.channels
    run = commands.run(recipe, out=tmp_path / "r", only=["search"], workspace=workspace, progress=Silent())
    assert "latency" not in files.read_json(run / "search/result.json")
    assert not (run / PREDICTIONS).exists()


def test_whole_networks_through_onnxruntime(network, monkeypatch):
    monkeypatch.setattr(latency_budget, "_SECONDS", 0.01)
    workspace = Workspace(loading.from_flags({"model": network, "dataset": "digits", "flops": "0.5"}))
    setting, shape = Setting.here("cpu", batch=2, threads=1), workspace.spec.input_shape
    timer = latency_budget.NetworkTimer(
        workspace.new_target, workspace.channels, setting, partial(quick_onnx, shape=shape)
    )
    found = timer.milliseconds([workspace.channels.uniform_plan(flops=0.5)])
    assert len(found) == 1
    assert timer.target_ms > 0 < found[0]
