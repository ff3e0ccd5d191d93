"""The table of accuracy experiments: paired margins, and what stands beside them."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import table as accuracy_table


def result(method, seed, accuracy, *, case="resnet20-50", commit="abc"):
    machine = {"cpu": "a CPU", "gpu": None, "cores": 2, "threads": 1, "commit": commit}
    return {
        "case": case,
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "flops": 20_000_000,
        "flops_share": 0.4886,
        "budget": 20_465_984,
        "target_flops": 40_931_968,
        "params": 130_000,
        "target_params": 269_722,
        "spent": {
            "epochs": {"allowed": 20.0, "spent": 19.9},
            "judging": {"images": 10, "epochs": 0.5},
        },
        "seconds": {
            "wall": {"search": 30.0, "train": 60.0, "evaluation": 10.0, "all": 100.0},
            "cpu": {"train": 80.0, "all": 80.0},
        },
        "settings": {"recipe": {"model": "resnet20"}, "settings": {"epochs": 20.0}, "overrides": []},
        "data": {"name": "cifar10", "train_full": 4000, "search_val": 800, "test": 10000},
        "machine": {**machine, "packages": {"torch": "2.0"}},
    }


RESULTS = [
    result("jst", 0, 0.80),
    result("jst", 1, 0.82),
    result("uniform", 0, 0.79),
    result("uniform", 1, 0.78),
    result("uniform", 2, 0.50),
    result("jst-random", 0, 0.81, commit="def"),
]


def test_margins_are_paired_by_seed():
    assert accuracy_table.margins("uniform", RESULTS) == pytest.approx([1.0, 4.0])
    assert accuracy_table.margins("jst-random", RESULTS) == pytest.approx([-1.0])


def test_a_row_holds_means_deviations_and_counts():
    text = accuracy_table.document(RESULTS)
    (row,) = (line for line in text.splitlines() if line.startswith("| uniform |"))
    cells = [cell.strip() for cell in row.split("|")[3:-1]]
    assert cells[:2] == ["69.00 +- 16.46 (3)", "+2.50 +- 2.12 (2)"]
    assert cells[2:] == ["20.000", "0.4886", "130.0", "19.90", "0.50", "90", "30", "80"]


def test_ablations_stand_in_a_table_of_their_own_beside_the_whole():
    main, ablations = accuracy_table.document(RESULTS).split("### Ablations")
    assert "| jst-random |" not in main and "| uniform |" not in ablations
    assert "| jst |" in main and "| jst |" in ablations and "-1.00 (1)" in ablations


def test_every_commit_behind_a_table_is_named():
    assert "commit abc; def" in accuracy_table.document(RESULTS)
    assert "No results yet." in accuracy_table.document([])


def test_given_weights_have_a_table_by_the_length_of_finetune():
    def cut(method, seed, *after):
        extra = {"after": dict(zip(("0", "1"), after, strict=True))}
        return {**result(method, seed, after[-1]), "extra": extra}

    results = [cut("cut-jst", 0, 0.5, 0.7), cut("cut-jst", 1, 0.6, 0.7)]
    results += [cut("cut-even", 0, 0.4, 0.71), cut("cut-even", 1, 0.4, 0.69), cut("cut-tp-l2", 0, 0.1, 0.2)]
    text = accuracy_table.document(results)
    assert "epochs' worth" not in text and "jst - method, paired" not in text
    assert "| cut-jst | " in text and "| 55.00 +- 7.07 | 70.00 +- 0.00 | 20.0 | 130.0 | 30.0 |" in text
    assert "| cut-even (2 pairs) | +15.00 +- 5.00 | +0.00 +- 1.00 |" in text
    assert "| cut-tp-l2 (1 pairs) | +40.00 | +50.00 |" in text
    both = accuracy_table.document([*results, *RESULTS])
    assert "given weights" in both and "### Ablations" in both
