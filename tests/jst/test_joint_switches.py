"""No setting is without effect: each one changes what a tiny search does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jstc.train import checkpoint

SHORT = {"search.rounds": 4, "search.steps_per_round": 3, "search.coarse_share": 0.25}

SWITCHES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # the four parts
    ({}, {"search.perturbation": False}),
    ({}, {"search.thresholds": "common"}),
    ({}, {"search.thresholds": "fixed"}),
    ({}, {"search.importance": "magnitude"}),
    ({}, {"search.importance": "gradient"}),
    ({"search.importance": "gradient"}, {"search.importance": "magnitude"}),
    ({}, {"search.importance": "random"}),
    ({}, {"search.importance": "weighted"}),
    ({"search.importance": "weighted"}, {"search.importance": "magnitude"}),
    ({}, {"search.importance": "taylor"}),
    ({}, {"search.importance": "weighted_taylor"}),
    ({"search.importance": "weighted_taylor"}, {"search.importance": "taylor"}),
    ({"search.importance": "magnitude"}, {"search.importance": "taylor"}),
    ({}, {"search.coarse_to_fine": False}),
    # their settings
    ({"search.thresholds": "fixed"}, {"search.fixed_thresholds": {"wide": 0.3}}),
    ({}, {"search.coarse_share": 0.6}),
    ({}, {"search.coarse_budget": 1.0}),
    ({}, {"search.sigma": [0.5, 0.1]}),
    ({}, {"search.sigma": [1.0, 5.0]}),
    ({}, {"search.noise_period": 1}),
    ({}, {"search.recency_bonus": 0.0}),
    ({}, {"search.tau": [3.0, 0.5]}),
    ({}, {"search.tau": [1.0, 0.05]}),
    ({}, {"search.residual_threshold_offset": 3.0}),
    ({}, {"search.gate_lr": 0.2}),
    ({}, {"search.gate_steps": 1}),
    ({}, {"search.candidates": 1}),
    ({"search.candidates": 8}, {"search.candidate_images": 3}),
    ({"search.importance": "taylor"}, {"search.importance_images": 8}),
    ({}, {"search.eval_images": 18}),
    ({}, {"search.recalibration_images": 16}),
    ({}, {"search.steps_per_round": 5}),
    # the network's limits, and training
    ({}, {"flops": 0.4}),
    ({}, {"flops": [0.5, 0.4]}),
    ({}, {"flops": None, "params": 0.5}),
    ({}, {"channels.round_to": 4}),
    ({}, {"channels.min_share": 0.6}),
    ({}, {"channels.min_width": 6}),
    ({}, {"input.augment": False}),
    ({}, {"finetune.epochs": 5}),
    ({}, {"train.lr": 0.05}),
]


@pytest.mark.parametrize(("base", "change"), SWITCHES, ids=[str(change) for _, change in SWITCHES])
def test_a_setting_changes_the_search(searched: Any, base: dict[str, Any], change: dict[str, Any]) -> None:
    assert trace(searched(SHORT | base)) != trace(searched(SHORT | base | change))


def test_the_rate_of_the_policy_changes_what_it_learns(searched: Any) -> None:
    """Whether that changes a plan in so few rounds is left to chance, so its weights are compared."""
    base = SHORT | {"search.coarse_share": 0.0, "search.candidates": 1}
    paths = [
        searched(each).directory / "checkpoint.safetensors"
        for each in (base, base | {"search.threshnet_lr": 0.2})
    ]
    mine, theirs = (checkpoint.load(path)[0]["policy.0.own"] for path in paths)
    assert mine.abs().max() > 0
    assert not torch.equal(mine, theirs)


def trace(run: Any) -> list[dict[str, Any]]:
    """The history as it was measured, without what only repeats the settings."""
    settings = ("seconds", "sigma", "tau", "thresholds", "phase", "lr", "budget")
    return [{key: value for key, value in record.items() if key not in settings} for record in run.history]


@pytest.mark.parametrize("change", [{"search.thresholds": "common"}, {"search.importance": "random"}])
def test_the_four_parts_change_the_plans_that_are_trained(searched: Any, change: dict[str, Any]) -> None:
    many = {"search.candidates": 8}
    mine, theirs = (searched(each).history for each in (many, many | change))
    assert [record["plan_hash"] for record in mine] != [record["plan_hash"] for record in theirs]


def test_a_teacher_is_written_when_asked_for_and_changes_nothing_else(searched: Any) -> None:
    without, taught = searched(), searched({"finetune.teacher": "target"})
    assert taught.files == without.files
    assert (taught.directory / "target.safetensors").exists()
    assert not (without.directory / "target.safetensors").exists()


def test_more_candidates_are_judged_from_a_larger_archive(
    run_search: Any, dataset: Any, watched: Any, tmp_path: Any
) -> None:
    counts = []
    for size in (1, 3):
        asked: list[str] = []
        run_search(
            tmp_path / str(size),
            # three different plans
            {"search.noise_period": 1, "search.archive_size": size, "search.eval_images": 16},
            dataset=watched(dataset, search_val=asked.append),
        )
        counts.append(asked.count("ordered"))
    assert counts[1] - counts[0] == 2 * 4  # two candidates more, 54 images in batches of 16
