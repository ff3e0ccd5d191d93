"""The replay of the policy: rewards are counted and noisy, others judge, and something is found."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest

from benchmarks.allocation import __main__ as allocation
from benchmarks.allocation.__main__ import METHODS, Measured, Rewards

LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of a space where the first layer is worth most and costs least; training 3 is told apart."""
    folder = tmp_path_factory.mktemp("tables")
    random = np.random.default_rng(0)
    for space in ("MobileNet", "ResNet"):
        with (folder / f"{space}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["widths", "accuracy1", "accuracy2", "accuracy3", "params", "flops"])
            for digits in itertools.product((1, 2, 3, 4), repeat=LAYERS):
                worth = 80 + 2 * digits[0] + 0.2 * sum(digits[1:])
                noisy = (worth + random.normal(scale=0.05, size=3)).round(2)
                flops = 100 * digits[0] + 300 * sum(digits[1:])
                writer.writerow(["".join(map(str, digits)), *noisy, 10 * sum(digits), flops])
    return folder


def test_what_was_asked_before_costs_nothing_and_is_the_same(folder):
    rewards = Rewards(Measured(folder / "ResNet.csv"), column=1, number=2)
    first = rewards(np.array([1, 2, 3, 4]))
    assert rewards(np.array([4, 1, 1, 1])) is not None and rewards.left == 0
    assert rewards(np.array([1, 2, 3, 4])) == first and rewards(np.array([2, 2, 2, 2])) is None
    assert rewards.best == (4, 1, 1, 1)


def test_what_is_found_is_within_the_budget_and_judged_by_the_other_trainings(folder):
    table = Measured(folder / "MobileNet.csv")
    limit = table.cost_of_counts(table.even(2)).flops
    asked = Rewards(table, column=0, number=24)
    found = METHODS["policy"](table, asked, limit, np.random.default_rng(1))
    assert all(table.cost_of_counts(np.array(counts)).flops <= limit for counts in found.values())
    assert 8 <= len(asked.seen) <= 24
    seed = 3  # column 0 teaches
    margins = allocation.margins(table, METHODS["policy"], quarters=2, rewards=24, seed=seed)
    even, counts = table.row(table.even(2)), None
    found = METHODS["policy"](table, Rewards(table, column=0, number=24), limit, np.random.default_rng(seed))
    counts = table.row(found["policy"])
    expected = (table.accuracies[counts] - table.accuracies[even])[1:].mean()
    assert margins["policy"] == pytest.approx(expected)


def test_the_policy_finds_that_a_cheap_layer_is_worth_most(folder):
    table = Measured(folder / "MobileNet.csv")
    gained = [
        allocation.margins(table, METHODS["policy"], quarters=2, rewards=48, seed=seed)["policy"]
        for seed in range(5)
    ]
    assert np.mean(gained) > 2.0  # four quarters of the first layer instead of two: 3.2 to 4


def test_the_table_has_all_methods_and_a_missing_file_is_said(folder, tmp_path, capsys):
    path = tmp_path / "table.md"
    options = ["--rewards", "8", "--seeds", "2", "--table", str(path)]
    assert allocation.main(["--data", str(folder), *options]) == 0
    text = path.read_text()
    assert text.count("| policy |") == text.count("| random plans, best reward |") == 4
    assert allocation.main(["--data", str(tmp_path), *options]) == 2
    assert "no tables of Channel-Bench-Macro" in capsys.readouterr().err
