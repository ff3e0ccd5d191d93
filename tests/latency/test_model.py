"""Predictions: sums of the table's times, corrected by whole networks; and budgets on them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from jstc.channels.budget import WidthBounds, project, resolve, smallest, uniform_counts
from jstc.core.progress import Silent
from jstc.errors import BudgetError
from jstc.latency import Calibration, LatencyModel, Table
from jstc.recipe.schema import ChannelSettings
from tests.helpers.fake_timer import FakeTimer


def all_steps(channels, model):
    return WidthBounds.from_settings(channels.groups, ChannelSettings(), block=model.block)


def test_the_sum_of_the_layers(model, channels, timer):
    parts = [
        layer.passes * timer.time(layer.kernel, layer.widths(channels.executions.sizes(channels.full_counts)))
        for layer in model._layers
    ]
    assert model(channels.full_counts) == pytest.approx(sum(parts))


def test_whole_networks_correct_the_sum():
    found = Calibration().with_point(10.0, 14.0).with_point(5.0, 9.0)
    assert [found(total) for total in (10, 5, 7.5, 20, 2.5)] == pytest.approx([14, 9, 11.5, 28, 4.5])
    assert Calibration()(3.0) == 3.0


def test_a_narrower_network_never_counts_as_slower():
    found = Calibration().with_point(10.0, 14.0).with_point(5.0, 15.0)
    assert found(5.0) == found(10.0) == 14.0


def test_the_same_predictions_after_a_round_trip(model, channels):
    model.calibration = Calibration().with_point(2.0, 3.0)
    document = json.loads(json.dumps(model.to_dict()))
    again = LatencyModel.from_dict(document, channels.executions, full=channels.full_counts)
    plan = channels.random_plan(flops=0.5, seed=1)
    assert again.block == model.block
    assert again(channels.counts(plan)) == pytest.approx(model(channels.counts(plan)), rel=1e-5)


def test_a_search_that_goes_on_predicts_to_the_last_bit(channels, tmp_path, setting):
    class Uneven(FakeTimer):
        def time(self, kernel, widths):
            return super().time(kernel, widths) / 3

    table = Table(setting, timer=Uneven(), path=tmp_path / "table.json")
    model = LatencyModel.measured(channels.executions, table, full=channels.full_counts, progress=Silent())
    again = LatencyModel.from_dict(
        json.loads(json.dumps(model.to_dict())), channels.executions, full=channels.full_counts
    )
    counts = channels.counts(channels.random_plan(flops=0.5, seed=1))
    assert again(counts) == model(counts)


def test_a_table_of_another_network_is_no_model(model, channels):
    document = model.to_dict()
    document["times"].popitem()
    with pytest.raises(KeyError):
        LatencyModel.from_dict(document, channels.executions, full=channels.full_counts)


def test_steps_are_the_providers(model, channels):
    assert model.block == 16
    assert all_steps(channels, model).step.tolist() == [8, 16, 16]  # up to a quarter of 32, 64 and 64


def test_a_projection_takes_the_widths_that_are_fast(model, channels):
    timed = channels.timed(model)
    bounds = WidthBounds.of(channels.groups, round_to=4)  # finer than the stairs: 36 costs as much as 48
    budget = resolve(timed, {"latency": 0.6}, bounds)
    for seed in range(20):
        random = np.random.default_rng(seed)
        levels = [np.arange(1, g.width + 1) / random.uniform(0.3, 1.0) for g in channels.groups]
        counts = project(timed, levels, budget, bounds)
        used = timed.cost_of_counts(counts).latency_ns
        assert used <= budget.on("latency").limit
        for group in range(len(counts)):  # no group stands in the middle of a stair
            wider = counts.copy()
            wider[group] = min(wider[group] + 4, channels.groups[group].width)
            free = timed.cost_of_counts(wider).latency_ns <= used
            assert not free or wider[group] == counts[group]


def test_a_latency_and_flops_are_both_met(model, channels):
    timed = channels.timed(model)
    bounds = WidthBounds.of(channels.groups, round_to=4)
    tight = set()
    for seed, flops in enumerate(np.linspace(0.2, 0.9, 20).tolist()):
        random = np.random.default_rng(seed)
        levels = [np.arange(1, g.width + 1) / random.uniform(0.3, 1.0) for g in channels.groups]
        asked = {"flops": flops, "latency": 0.6}
        both = resolve(timed, asked, bounds)
        counts = project(timed, levels, both, bounds)
        used = both.shares(timed.cost_of_counts(counts))
        assert 0.9 < max(used.values()) <= 1
        metric = max(used, key=used.get)
        tight.add(metric)
        alone = resolve(timed, {metric: asked[metric]}, bounds)
        expected = project(timed, levels, alone, bounds)
        if both.fits(timed.cost_of_counts(expected)):  # the other bound is met anyhow
            assert counts.tolist() == expected.tolist()
    assert tight == {"flops", "latency"}


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3])
def test_budgets_of_latency_are_met(model, channels, share):
    timed, bounds = channels.timed(model), all_steps(channels, model)
    budget = resolve(timed, {"latency": share}, bounds)
    counts = uniform_counts(timed, budget, bounds)
    [bound] = budget.bounds
    assert bound.limit == pytest.approx(share * model(channels.full_counts) * 1e6, abs=2)
    assert model(counts) * 1e6 <= bound.limit + 1
    assert bound.shown_limit == bound.limit / 1e6


def test_a_time_is_a_budget_too(model, channels):
    timed, bounds = channels.timed(model), all_steps(channels, model)
    whole = model(channels.full_counts)
    budget = resolve(timed, {"latency": f"{whole / 2:.6f}ms"}, bounds)
    assert budget.share == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(BudgetError, match=r"nothing to do: the target network takes .* ms, as predicted"):
        resolve(timed, {"latency": "100ms"}, bounds)


def test_out_of_reach_names_the_smallest(model, channels):
    timed, bounds = channels.timed(model), all_steps(channels, model)
    with pytest.raises(BudgetError, match=r"meets latency 0\.00001000 ms: .* takes .* ms") as raised:
        resolve(timed, {"latency": "0.00001ms"}, bounds)
    offered = float(re.search(r"takes ([0-9.]+) ms", str(raised.value))[1])
    assert offered >= smallest(timed, bounds).latency_ns / 1e6
    resolve(timed, {"latency": f"{offered}ms"}, bounds)  # what is offered works


def test_other_costs_are_untouched(model, channels):
    plan = channels.random_plan(flops=0.5, seed=0)
    assert channels.cost(plan).latency_ns is None
    timed = channels.timed(model).cost(plan)
    assert (timed.flops, timed.params) == (channels.cost(plan).flops, channels.cost(plan).params)
    assert timed.latency_ns == round(1e6 * model(channels.counts(plan)))
