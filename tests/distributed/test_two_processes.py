"""What two processes, started once for this file, tell each other; and that they train as one would."""

from __future__ import annotations

import json

import pytest


def test_process_0_decides(both):
    assert [found["decided"] for found in both("talk")] == [{"rank": 0}] * 2


def test_sums_are_the_same_everywhere(both):
    first, second = both("talk")
    assert first["sums"] == second["sums"] == [0.2, 3.0]


def test_tensors_are_copied_whatever_their_type_and_layout(both):
    assert [found["copied"] for found in both("talk")] == [[[0.0] * 3, [[0, 0]] * 3]] * 2


def test_files_are_read_by_process_0(both):
    loaded = [{"a": [0.0, 1.0, 2.0], "b": 1.0}, {"x": 1}]
    assert [found["loaded"] for found in both("talk")] == [loaded] * 2
    assert [found["nothing"] for found in both("talk")] == [None, None]


def test_each_has_its_part_and_its_random_numbers(both):
    first, second = both("talk")
    assert (first["part"], second["part"]) == ([0, 2], [1, 2])
    assert (first["seed"], second["seed"]) == ([], [1])


def test_a_difference_ends_all_with_a_message(both):
    first, second = both("differences")
    assert first == second
    assert first["same"] is None
    assert first["other"].startswith("the network is another on process 1 than on process 0")
    assert first["plan"].startswith("the plan is another on process 1")


def test_an_error_of_process_0_reaches_all(both):
    assert [found["decided"] for found in both("differences")] == ["no such file"] * 2


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


def test_what_a_round_teaches_of_channels_is_what_one_process_is_taught(both, checks):
    alone = checks.taught_round()
    first, second = both("taught_round")
    assert first == second
    for name, values in alone.items():
        assert first[name] == pytest.approx(values, rel=1e-3, abs=1e-6)
        assert len(set(values)) > 2


def test_a_search_over_widths_ends_alike_in_both_and_one_of_them_writes(both, folder):
    first, second = both("widths")
    assert len({*first["plans"], *second["plans"]}) == 1
    assert first["target"] == second["target"]
    assert (first["wrote"], second["wrote"]) == (True, False)
    lines = (folder / "widths" / "candidates.jsonl").read_text().splitlines()
    assert len({json.loads(line)["plan"] for line in lines}) > 2 and len(lines) == 16


def test_layers_are_fitted_alike_in_both_whatever_their_rounding(both):
    first, second = both("mended")
    assert first == second


def test_plans_are_judged_on_fewer_images_than_there_are_parts(both, checks):
    alone = [checks.judged_on_few(images) for images in range(1, 7)]
    first, second = both("few")
    assert first == second == pytest.approx(alone, rel=1e-5)


def test_a_new_classifier_is_trained_as_by_one_process(both, checks, tmp_path):
    alone = checks.new_head(tmp_path)
    first, second = both("new_head")
    assert first["weights"] == second["weights"] == first["again"] == second["again"]
    assert first["weights"] == pytest.approx(alone["weights"], rel=1e-4, abs=1e-6)
    assert alone["weights"] != checks.normless().fc.weight.flatten().tolist()
    assert (first["rest"], first["wrote"], second["wrote"]) == (True, True, False)


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


def test_a_joint_search_is_one_search_whatever_each_was_given(both):
    """Both train and judge the same networks; what one of them refuses, both do."""
    first, second = both("joint_search")
    assert all("not finite" in text for text in second.pop("refused"))
    assert all("process 1 has refused" in text for text in first.pop("refused"))
    assert first == second and len(first["plans"]) == 2 and first["score"] == 1.0
