"""Two processes train one network: the same as one process, but for rounding."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("name", ["even", "uneven", "accumulated"])
def test_steps_are_those_of_one_process(both, checks, name):
    alone = checks.CHECKS[name]()
    first, second = both(name)
    assert first == second  # bit for bit
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert first["weights"] == pytest.approx(alone["weights"], rel=1e-4, abs=1e-6)
    assert first["images"] == alone["images"]


def test_training_changes_something(checks):
    found = checks.steps(60, 12)
    assert len(set(found["losses"])) == len(found["losses"])


def test_evaluation_counts_every_image_once(both, checks):
    accuracy, loss, images = checks.evaluation()
    for found in both("evaluation"):
        assert (found[0], found[2]) == (accuracy, images)
        assert found[1] == pytest.approx(loss, rel=1e-6)


def test_gates_and_weights_of_a_round_are_those_of_one_process(both, checks):
    alone = checks.gated_round()
    first, second = both("gated_round")
    assert first == second
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert first["alpha"] == pytest.approx(alone["alpha"], rel=1e-4, abs=1e-5)
    assert first["images"] == alone["images"]
    assert first["judged"] == pytest.approx(alone["judged"], rel=1e-5)
    assert len(set(alone["alpha"])) > 2


def test_a_search_ends_alike_in_both_and_one_of_them_writes(both, folder):
    first, second = both("search")
    assert first["plan"] == second["plan"] == first["again"] == second["again"]
    assert first["target"] == second["target"]
    assert (first["wrote"], second["wrote"]) == (True, False)
    written = {path.relative_to(folder / "run").as_posix() for path in folder.glob("run/*/*")}
    assert {"search/plan.json", "finetune/subnetwork.safetensors", "finetune/result.json"} <= written


def test_the_finetuned_network_is_as_good_in_one_process(both, checks, folder):
    both("search")
    found = checks.finetuned_accuracy(folder / "run")
    assert found["alone"] == found["written"]
