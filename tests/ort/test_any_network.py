"""Files of any network are timed: several inputs, whole numbers, dynamic sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from jstc.errors import InputError
from jstc.ort import bench, memory, opened, sessions
from jstc.ort.memory import Task, measured
from jstc.ort.opened import LENGTH, SIDE
from jstc.recipe.schema import BenchSettings
from tests.helpers.onnx_files import BOOL, FLOAT, INT64, STRING, encoder, written

QUICK = BenchSettings(provider="cpu", batch_sizes=(1, 3), threads=1, seconds=0.01, memory=False)
RELU = onnx.helper.make_node("Relu", ["x"], ["y"])


def given(item: opened.Opened, batch: int) -> Any:
    """What the file gives at a batch size."""
    return opened.prepare(item, batch)()


def opened_at(path: Path, **options: object) -> opened.Opened:
    return opened.open_file("file", path, provider="cpu", threads=1, **options)


def test_token_ids_are_ones_that_every_file_takes(tmp_path: Path) -> None:
    """Where they are too large for the table of the file, zeros."""
    for vocabulary in (1, 2):
        path = encoder(tmp_path / f"{vocabulary}.onnx", vocabulary=vocabulary)
        found = opened_at(path)
        vectors, sums = given(found, 3)
        assert vectors.shape == (3, LENGTH, 4) and sums.shape == (3, 4)
        session = sessions.open_session(path)
        value = vocabulary - 1
        ids = {name: [[value]] for name in ("ids", "mask")}
        assert (vectors[0, 0] == session.run(None, ids)[0][0, 0]).all()


def test_files_without_images_have_rows_for_every_batch_size(tmp_path: Path) -> None:
    files = {"wide": encoder(tmp_path / "a.onnx", width=64), "slim": encoder(tmp_path / "b.onnx")}
    found = bench.measure(files, settings=QUICK)
    assert [(row.file, row.batch) for row in found.rows] == [
        ("wide", 1), ("slim", 1), ("wide", 3), ("slim", 3)
    ]  # fmt: skip
    assert found.skipped == []


def test_dynamic_sizes_are_those_of_the_example_or_a_default(tmp_path: Path) -> None:
    metadata = {"sizes": '{"batch": 9, "tokens": 5, "odd": -1, "worse": "7"}'}
    assert opened_at(encoder(tmp_path / "told.onnx", metadata=metadata)).sizes == {"tokens": 5}
    assert opened_at(encoder(tmp_path / "plain.onnx")).sizes == {"tokens": LENGTH}
    for text in ("[1]", "{", "3", "[" * 100_000):
        told = encoder(tmp_path / "damaged.onnx", metadata={"sizes": text})
        assert opened_at(told).sizes == {"tokens": LENGTH}
    shape = ("batch", 3, "height", None)
    image = written(tmp_path / "image.onnx", {"x": (FLOAT, shape)}, [RELU], {"y": (FLOAT, shape)})
    found = opened_at(image, sizes={"height": 32})
    assert found.sizes == {"height": 32, "x[3]": SIDE} and found.inputs["x"].shape == (None, 3, 32, SIDE)


def test_all_files_are_timed_at_the_sizes_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        name: encoder(tmp_path / f"{name}.onnx", metadata={"sizes": f'{{"tokens": {size}}}'})
        for name, size in (("first", 6), ("second", 11))
    }
    shapes, prepare = [], opened.prepare

    def watched(item: opened.Opened, batch: int) -> object:
        shapes.append((item.label, item.inputs["ids"].shape))
        return prepare(item, batch)

    monkeypatch.setattr(bench, "prepare", watched)
    tasks: list[Task] = []
    monkeypatch.setattr(memory, "peak_memory", lambda asked: tasks.extend(asked) or [])
    with pytest.raises(ValueError, match="argument 2 is shorter"):  # nothing is measured here
        bench.measure(files, settings=QUICK.model_copy(update={"memory": True, "batch_sizes": (2,)}))
    assert shapes == [("first", (None, 6)), ("second", (None, 6))]
    assert [task.sizes for task in tasks] == [{"tokens": 6}] * 2
    assert measured(tasks[0]) >= 0


def test_the_batch_is_the_first_size_of_the_first_input_that_has_several(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    inputs = {"scale": (FLOAT, ()), "x": (FLOAT, ("n", 4)), "flags": (BOOL, ("m", 4)), "fixed": (FLOAT, (7,))}
    nodes = [
        make("Mul", ["x", "scale"], ["scaled"]),
        make("Not", ["flags"], ["others"]),
        make("Identity", ["fixed"], ["same"]),
    ]
    outputs = {"scaled": (FLOAT, ("n", 4)), "others": (BOOL, ("m", 4)), "same": (FLOAT, (7,))}
    found = opened_at(written(tmp_path / "several.onnx", inputs, nodes, outputs))
    assert {name: each.shape for name, each in found.inputs.items()} == {
        "scale": (), "x": (None, 4), "flags": (None, 4), "fixed": (7,)
    }  # fmt: skip
    assert found.fixed_batch is None
    scaled, others, same = given(found, 5)
    assert (scaled.shape, others.shape, same.shape) == ((5, 4), (5, 4), (7,)) and not others.any()
    signal = written(tmp_path / "signal.onnx", {"x": (FLOAT, (9,))}, [RELU], {"y": (FLOAT, (9,))})
    assert opened_at(signal).fixed_batch == 1


def test_values_that_cannot_be_made_up_are_refused_with_the_input(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["words"], ["same"])
    path = written(tmp_path / "text.onnx", {"words": (STRING, ("n",))}, [node], {"same": (STRING, ("n",))})
    with pytest.raises(InputError, match=r"cannot make up values for its input 'words', a tensor\(string\)"):
        opened_at(path)


def test_a_size_that_a_file_does_not_take_is_named(tmp_path: Path) -> None:
    shape = ("batch", "tokens")
    node = onnx.helper.make_node("Reshape", ["x", "to"], ["y"])
    path = written(
        tmp_path / "five.onnx", {"x": (INT64, shape)}, [node], {"y": (INT64, (-1, 5))},
        weights={"to": onnx.numpy_helper.to_array(onnx.helper.make_tensor("to", INT64, [2], [-1, 5]))},
    )  # fmt: skip
    with pytest.raises(InputError, match=f"cannot run it at batch 1, tokens {LENGTH}"):
        bench.measure({"five": path}, settings=QUICK)
    told = bench.measure({"five": path}, settings=QUICK.model_copy(update={"batch_sizes": (5,)}))
    assert [row.batch for row in told.rows] == [5]


def test_what_a_path_stands_for(tmp_path: Path) -> None:
    assert sessions.onnx_files(tmp_path / "a.onnx") == [tmp_path / "a.onnx"]
    assert sessions.onnx_files(tmp_path) is None and sessions.onnx_files(tmp_path / "nowhere") is None
    for name in ("model.json", "plan.json", "b.onnx", "a.onnx"):
        (tmp_path / name).write_text("")
    assert sessions.onnx_files(tmp_path) == [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    (tmp_path / "folder.onnx").mkdir()
    assert sessions.onnx_files(tmp_path / "folder.onnx") is None
