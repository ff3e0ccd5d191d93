"""The texts beside exported files: complete, valid, and free of invented figures."""

from __future__ import annotations

import pytest
import yaml

from jstc.export import card
from jstc.export.card import CardFacts, licence_fields

METADATA = {
    "labels": ["cat", "dog"], "input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.25] * 3,
    "flops": 5_111_800, "params": 132_054, "accuracy": 0.9716, "plan_hash": "abc123", "model": "resnet20",
    "dataset": "cifar10", "jstc_version": "9.9",
}  # fmt: skip
PLAIN = {"file": "export/model.onnx", "precision": "fp32", "accuracy": 0.9713, "max_abs_diff": 3.8e-6,
         "top1_agreement": 1.0, "bytes": 539_404}  # fmt: skip
INT8 = {"file": "export/model.int8.onnx", "precision": "int8", "accuracy": None, "bytes": 150_001}
WHOLE = PLAIN | {"file": "export/model.preprocess.onnx", "preprocess": True}


def facts(metadata=None, **changes):
    known = {
        "metadata": METADATA | (metadata or {}), "files": [PLAIN], "images": 599,
        "budget": "5,116,736 FLOPs", "target": {"flops": 10_233_472, "params": 269_722, "accuracy": 0.988},
        "batch": None, "fp16": False, "made": ["jstc 9.9, seed 3, plan abc123"], "command": "jstc run x.yaml",
        "licence": "unknown",
    }  # fmt: skip
    return CardFacts(**(known | changes))


def parts(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_hugging_faces():
    front, _ = parts(card.model_card(facts()))
    assert (front["library_name"], front["pipeline_tag"]) == ("onnx", "image-classification")
    assert (front["license"], front["datasets"]) == ("unknown", ["uoft-cs/cifar10"])
    result = front["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "uoft-cs/cifar10", "name": "cifar10", "split": "test"}
    assert [metric["value"] for metric in result["metrics"]] == [0.9713]


def test_hugging_faces_own_library_reads_it():
    hub = pytest.importorskip("huggingface_hub", reason="the reader of model cards is not installed")
    found = hub.ModelCard(card.model_card(facts(files=[PLAIN, WHOLE]))).data
    assert found.model_name == "resnet20 for cifar10"
    assert [result.metric_value for result in found.eval_results] == [0.9713, 0.9713]


def test_every_figure_is_there_with_how_it_was_measured():
    _, body = parts(card.model_card(facts()))
    for text in ("97.13 %", "97.16 %", "98.80 %", "all 599 images of the test split", "5,111,800",
                 "10,233,472", "132,054", "539,404", "3.8e-06", "100.00 %", "one multiply-add is one FLOP",
                 "seed 3", "jstc run x.yaml", "abc123", "[batch, 3, 16, 16]", "cat, dog"):  # fmt: skip
        assert text in body
    assert card.run_script(facts()) in body
    on_gpu = facts(files=[PLAIN | {"accuracy_provider": "cuda"}])
    assert "the accuracy in onnxruntime (cuda) on all 599 images" in card.model_card(on_gpu)


def test_accuracies_have_sampling_errors_where_the_images_are_known():
    text = card.model_card(facts())
    for one in ("| 97.13 % ±1.7 |", "in torch: 97.16 % ±1.7.", "whole run: 98.80 % ±1.2."):
        assert one in text
    assert "±: the sampling error of an accuracy, 95 %" in text
    assert "±" not in card.model_card(facts(images=None))


def test_why_nothing_follows_from_a_comparison_stands_before_the_figures():
    assert "Warning" not in card.model_card(facts())
    text = card.model_card(facts(warnings=["The target network trained alone scores 9.68 % ±2.6."]))
    assert "> **Warning:** The target network trained alone scores 9.68 % ±2.6.\n\n| file |" in text


def test_what_was_not_measured_is_said_so():
    target = {"flops": None, "params": None, "accuracy": None}
    front, body = parts(card.model_card(facts(files=[INT8], target=target, command="", images=None)))
    assert "model-index" not in front
    assert (
        "| `model.int8.onnx` | int8 | normalised images | not measured | not measured | not measured |"
        in body
    )
    assert "for as many epochs as the whole run: not measured" in body
    assert "The target network: not measured." in body
    assert "The command was not recorded" in body


def test_the_given_network_as_it_came_stands_before_the_one_trained_alone():
    assert "given network" not in card.model_card(facts())
    target = {"flops": 10_233_472, "params": 269_722, "accuracy": 0.988, "accuracy_before": 0.8104}
    _, body = parts(card.model_card(facts(target=target)))
    assert "- The given network, uncut and as it came: 81.04 % ±3.3.\n- The target network, uncut" in body
    assert "trained alone from the same weights for as many epochs as the whole run: 98.80 % ±1.2." in body
    assert "Warning" not in body
    _, body = parts(card.model_card(facts(warnings=["It is at | chance."])))
    assert "\n> **Warning:** It is at \\| chance.\n" in body


def test_files_that_take_pixels_are_explained():
    _, body = parts(card.model_card(facts({"resize_side": 18}, files=[PLAIN, WHOLE], batch=8)))
    assert "| `model.preprocess.onnx` | fp32 | pixels |" in body
    assert "uint8 [8, height, width, 3] of any height and width. It gives" in body
    assert "unless it has 16 x 16 pixels already, resize it so that its shorter side has 18 pixels" in body


@pytest.mark.parametrize(
    "odd", ["a: b", "- [x]", "#{}", "|", "имя", "two\nlines", "'\"", "\ud800", "---", "`"]
)
def test_odd_names_break_neither_yaml_nor_table(odd):
    text = card.model_card(facts({"model": odd, "dataset": odd, "labels": [odd, "b"]}, command=odd))
    front, body = parts(text)
    assert front["model-index"][0]["name"] == f"{odd} for {odd}"
    text.encode("utf-8")
    table = [line for line in body.splitlines() if line.startswith("| `model")]
    assert [line.replace("\\|", "").count("|") for line in table] == [8]


def test_labels_stay_one_a_line():
    labels = ["cat", "two\nlines", "\u2028", "é|<b>", "\ud800", "👩\u200d🚀", ""]
    lines = card.labels_text(labels).encode("utf-8").decode("utf-8").splitlines()
    assert lines == ["cat", r"two\nlines", r"\u2028", "é|<b>", r"\ud800", "👩\u200d🚀", ""]


def test_only_twenty_labels_are_listed():
    _, body = parts(card.model_card(facts({"labels": [f"class{i}" for i in range(1000)]})))
    assert "class19 and 980 more" in body


@pytest.mark.parametrize(
    ("licence", "fields"),
    [("MIT", {"license": "mit"}), ("Acme 1.0", {"license": "other", "license_name": "Acme 1.0"})],
)
def test_licences(licence, fields):
    assert licence_fields(licence) == fields
    _, body = parts(card.model_card(facts(licence=licence)))
    assert f"Licence of these files: {licence}." in body
    assert "No licence was stated" in card.model_card(facts())
