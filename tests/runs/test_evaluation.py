"""`jstc eval`: any classifier file on a data set, and what is said about it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from jstc.core.preprocessing import Preprocessing
from jstc.errors import InputError, RunDirectoryError
from jstc.export.preprocess import write_with_preprocess
from jstc.runs import evaluation

MEAN, STD = [0.305] * 3, [0.323] * 3  # the digits'
LABELS = [str(digit) for digit in range(10)]


def metadata(**changes):
    values = {"labels": LABELS, "input_size": [3, 16, 16], "mean": MEAN, "std": STD} | changes
    return {key: json.dumps(value) for key, value in values.items()}


def evaluate(path, **options):
    return evaluation.evaluate(path, **({"dataset": "digits", "provider": "cpu", "threads": 1} | options))


@pytest.fixture
def ours(onnx_classifier):
    """A file as jstc exports it, with random weights."""
    return onnx_classifier("ours.onnx", classes=10, metadata=metadata())


def test_the_result_says_what_was_measured(ours):
    result = evaluate(ours)
    assert (result["file"], result["dataset"], result["split"]) == (str(ours), "digits", "test")
    assert result["images"] == result["images_in_split"] == 599
    low, high = result["accuracy_interval"]
    assert 0 < low < result["accuracy"] < high < 1
    assert result["top5_accuracy"] > result["accuracy"]
    assert (result["undefined"], result["batch"], result["notes"]) == (0, None, [])


def test_all_forms_of_a_file_have_the_same_accuracy(ours, onnx_classifier):
    expected = evaluate(ours)
    whole = ours.with_name("whole.onnx")
    write_with_preprocess(ours, whole, Preprocessing(16, 16, tuple(MEAN), tuple(STD)))
    forms = {
        "fixed": onnx_classifier("fixed.onnx", classes=10, batch=7, metadata=metadata()),
        "several": onnx_classifier("several.onnx", classes=10, features=True, metadata=metadata()),
        "half": onnx_classifier("half.onnx", classes=10, half=True, metadata=metadata()),
    }
    found = {name: evaluate(path) for name, path in forms.items()}
    for name, within in (("fixed", 0), ("several", 0), ("half", 0.005)):
        assert found[name]["accuracy"] == pytest.approx(expected["accuracy"], abs=within + 1e-12)
        assert found[name]["images"] == 599
    assert found["fixed"]["batch"] == 7
    assert found["several"]["notes"] == ["of the file's 2 outputs, 'logits' has the scores"]
    pixels = evaluate(whole)
    assert pixels["accuracy"] == expected["accuracy"]
    assert pixels["top5_accuracy"] == expected["top5_accuracy"]
    assert "takes images of any size, and prepares them itself" in pixels["notes"][0]


def test_scores_are_found_behind_other_outputs(ours):
    model = onnx.load(str(ours))
    features = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 96])
    logits = model.graph.output.pop()
    model.graph.output.extend([features, logits])
    path = ours.with_name("behind.onnx")
    onnx.save(model, str(path))
    assert evaluate(path)["accuracy"] == evaluate(ours)["accuracy"]


def test_classes_in_another_order_are_matched_by_name(ours, onnx_classifier):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    turned = onnx_classifier(
        "turned.onnx", classes=10, order=order, metadata=metadata(labels=[LABELS[i] for i in order])
    )
    result = evaluate(turned)
    assert result["accuracy"] == evaluate(ours)["accuracy"]
    assert result["notes"] == [
        "the file has its classes in another order than the data set: they are matched by name"
    ]


def test_classes_with_other_names_are_said_so(onnx_classifier):
    path = onnx_classifier("x.onnx", classes=10, metadata=metadata(labels=["zero", *LABELS[1:]]))
    [note] = evaluate(path)["notes"]
    assert "1 have other names in the data set (class 0: 'zero' and '0')" in note
    assert "class i is taken for class i, which may be wrong" in note


def test_a_file_without_metadata_is_evaluated_at_the_size_of_its_graph(ours, onnx_classifier):
    result = evaluate(onnx_classifier("foreign.onnx", classes=10))
    assert result["accuracy"] == evaluate(ours)["accuracy"]
    assert result["notes"] == [
        "the file does not name its classes: class i is taken for the data set's class i",
        "the file does not say how it normalises images: mean and std are the data set's",
    ]


def test_the_files_own_normalisation_is_used(ours, onnx_classifier):
    mean, std = [0.9] * 3, [0.1] * 3
    path = onnx_classifier("other.onnx", classes=10, metadata=metadata(mean=mean, std=std))
    result = evaluate(path)
    assert "normalised with mean and std of the file" in result["notes"][0]
    assert result["accuracy"] != evaluate(ours)["accuracy"]


def test_a_limit_is_said_plainly(ours):
    result = evaluate(ours, limit=100)
    assert (result["images"], result["images_in_split"]) == (100, 599)
    assert result["notes"] == ["100 of the 599 images of the test split, spread evenly over it"]
    assert evaluate(ours, limit=10_000)["notes"] == []


def test_scores_that_are_no_numbers_count_as_wrong(ours):
    model = onnx.load(str(ours))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.raw_data = np.full((96, 10), np.nan, np.float32).tobytes()
    path = ours.with_name("nan.onnx")
    onnx.save(model, str(path))
    result = evaluate(path)
    assert (result["accuracy"], result["undefined"]) == (0.0, 599)
    assert "599 images are infinite or undefined: counted as wrong" in result["notes"][0]


def test_a_file_in_a_runs_export_folder_knows_its_data(ours, tmp_path):
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    (run / "recipe.yaml").write_text("model: resnet20\ndataset: digits\nflops: 0.5\n")
    head = {"kind": "jstc run", "schema": 1, "created": "", "command": "", "seed": 0, "versions": {}}
    (run / "manifest.json").write_text(json.dumps(head | {"stages": {}}))
    with pytest.raises(RunDirectoryError, match="has no exported network yet"):
        evaluate(run, dataset=None)
    copy = run / "export" / "model.int8.onnx"
    copy.write_bytes(ours.read_bytes())
    assert evaluate(copy, dataset=None)["dataset"] == "digits"
    (run / "export" / "result.json").write_text(
        json.dumps({"files": [{"file": "export/model.int8.onnx", "precision": "int8"}]})
    )
    assert evaluate(run, dataset=None)["file"] == str(copy)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": 5}, "gives 5 classes, but the data set has 10"),
        ({"shape": (1, 16, 16)}, "takes images of 1 x 16 x 16, but the data set has 3 x 16 x 16"),
        ({"shape": (3, 16, 32)}, "images of 32x32 stay square: they are not prepared as 16x32"),
    ],
)
def test_what_does_not_fit_is_refused(onnx_classifier, options, says):
    path = onnx_classifier("x.onnx", **({"classes": 10} | options))
    with pytest.raises(InputError, match=says):
        evaluate(path)


def test_without_a_data_set_it_asks_for_one(ours):
    with pytest.raises(InputError, match="Give --dataset NAME"):
        evaluate(ours, dataset=None)
