"""The examples of vision run, on a few tiny images: they train, search, cut, save, export with parity."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

import jstc

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = {"images": 16, "given": 1, "candidates": 1, "rounds": 1, "epochs": 1}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in ("scenes", "segmentation", "detection", "yolo"):
        sys.modules.pop(name, None)


def arguments(folder: Path, **more: object) -> list[str]:
    places = {"data": folder / "data", "out": folder / "run", "weights": folder / "weights.pt"}
    return [f"--{name}={value}" for name, value in {**places, **TINY, **more}.items()]


@pytest.mark.parametrize(("name", "needs"), [("segmentation", None), ("detection", "pycocotools")])
def test_torchvisions_networks(name, needs, example, tmp_path):
    if needs:
        pytest.importorskip(needs, reason=f"the example of {name} needs {needs}")
    table = example(name).main([*arguments(tmp_path, side=64), "--compare"])
    assert table.keys() == {"uncut", "slim", "uniformly narrow", "uncut, trained on"}
    assert all(0 <= score <= 100 for score in table.values())
    run = tmp_path / "run"
    result = json.loads((run / "search/result.json").read_text())
    whole = json.loads((run / "search/search.json").read_text())["flops"]
    assert 0.4 * whole < result["flops"] <= 0.5 * whole
    assert jstc.Plan.load(run / "slim/plan.json").hash == result["plan_hash"]
    assert (run / "slim.onnx").stat().st_size < (run / "whole.onnx").stat().st_size


def test_annotations_are_what_is_seen(example, tmp_path):
    scenes = example("scenes")
    scenes.write(tmp_path, images=4, side=64, classes=3)
    coco = json.loads((tmp_path / "val.json").read_text())
    masks, boxes = scenes.masks(tmp_path, "val"), scenes.boxes(tmp_path, "val")
    assert len(masks) == len(boxes) == len(coco["images"]) == 2
    for one in coco["annotations"]:
        x, y, width, height = one["bbox"]
        middle = (int(y + height / 2), int(x + width / 2))
        assert masks[one["image_id"]][1][middle] == one["category_id"]
        assert one["category_id"] in boxes[one["image_id"]][1]["labels"]
    assert sum(len(target["boxes"]) for _, target in boxes) == len(coco["annotations"])
    rows = [r for p in sorted((tmp_path / "labels/val").glob("*.txt")) for r in p.read_text().splitlines()]
    assert [int(r.split()[0]) + 1 for r in rows] == [a["category_id"] for a in coco["annotations"]]


@pytest.mark.filterwarnings("ignore")  # another library's, of what a tiny run does not have
def test_ultralytics_trainer(example, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    pytest.importorskip(
        "ultralytics", reason="the example of YOLO needs ultralytics, which is under AGPL-3.0"
    )
    tiny = [one for one in arguments(tmp_path) if not one.startswith(("--weights", "--candidates"))]
    assert example("yolo").main([*tiny, "--side=64"]).keys() == {"uncut", "slim"}
    run = tmp_path / "run"
    whole = json.loads((run / "search/search.json").read_text())["flops"]
    assert 0.4 * whole < json.loads((run / "slim/model.json").read_text())["cost"]["flops"] <= 0.5 * whole
    assert (run / "slim.onnx").stat().st_size < (run / "whole.onnx").stat().st_size
