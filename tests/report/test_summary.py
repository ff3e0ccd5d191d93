from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.errors import RunDirectoryError
from jstc.plan import Plan
from jstc.summary import to_document

PROMISED = {
    "budget": ["metric", "limit", "share"],
    "target": ["flops", "params", "accuracy"],
    "slim": ["flops", "params", "accuracy", "max_abs_diff_fold"],
    "seconds": ["search", "finetune", "slim", "export", "bench"],
}


def build(run: Path) -> dict[str, Any]:
    """The document of summary.json."""
    return to_document(report.summarise(run))


def test_a_finished_run_gives_every_promised_figure(finished: Path, contents: dict[str, Any]) -> None:
    summary = build(finished)
    for section, keys in PROMISED.items():
        assert all(summary[section][key] is not None for key in keys), section
    assert (summary["schema"], summary["model"], summary["dataset"], summary["seed"]) == (
        1,
        "resnet20",
        "digits",
        3,
    )
    assert summary["target"]["accuracy"] == 0.994
    assert summary["slim"]["max_abs_diff_fold"] == 3e-7
    assert summary["onnx"] == contents["export/result.json"]["files"]
    assert summary["bench"] == contents["bench/bench.json"]["rows"]
    json.dumps(summary, allow_nan=False)


def test_widths_before_and_after_come_from_the_plan(finished: Path) -> None:
    summary = build(finished)
    widths = {group["name"]: (group["width"], group["kept"]) for group in summary["groups"]}
    assert widths == {"stem": (16, 8), "layer1.0.conv1": (16, 3), "head": (32, 32)}
    assert summary["plan_hash"] == Plan.load(finished / "slim" / "plan.json").hash


def test_images_that_could_not_be_read_are_told_of_in_one_line(
    finished: Path, contents: dict[str, Any]
) -> None:
    assert build(finished)["unreadable_images"] == 0
    assert "could not be read" not in "\n".join(build(finished)["notes"])
    result = contents["finetune/result.json"] | {"test_images": 1198}
    (finished / "finetune" / "result.json").write_text(json.dumps(result))
    for name, images in (("corrupt.jsonl", "ab"), ("corrupt-1.jsonl", "bc")):
        lines = [json.dumps({"image": image, "reason": "cut off"}) for image in images]
        (finished / name).write_text("\n".join(lines) + "\n{")
    summary = build(finished)
    assert summary["unreadable_images"] == 3
    assert [note for note in summary["notes"] if "could not be read" in note] == [
        "Images that could not be read, listed in corrupt.jsonl: 3; "
        "accuracies are those of the 1,198 test images that could."
    ]


def test_layers_that_torch_computed_wrong_are_told_once(finished: Path) -> None:
    row = {
        "layers": ["a"], "call": "3x3 convolution", "dtype": "bfloat16", "wrong": ["gradient of the weight"],
        "form": "float32",
    }  # fmt: skip
    for stage, layer in (("search", "a"), ("finetune", "b")):
        path = finished / stage / "result.json"
        result = json.loads(path.read_text()) | {"kernels": [row | {"layers": [layer]}]}
        path.write_text(json.dumps(result))
    summary = build(finished)
    assert summary["kernels"] == [row | {"layers": ["a", "b"]}]
    assert [note for note in summary["notes"] if "torch computes" in note] == [
        "On the machine of this run torch computes some layers wrong in bfloat16 (gradient of the weight): "
        "a, b. They were computed in float32 instead."
    ]


def test_a_run_that_has_only_begun_gives_nulls_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: resnet20\ndataset: digits\nseed: 0\n")
    summary = build(tmp_path)
    for section, keys in PROMISED.items():
        assert [summary[section][key] for key in keys] == [None] * len(keys)
    assert summary["onnx"] == summary["bench"] == summary["groups"] == []
    text = "\n".join(summary["notes"])
    for stage in PROMISED["seconds"]:
        assert f"{stage} has not run" in text


@pytest.mark.parametrize(
    ("name", "key", "value", "note"),
    [
        ("search/result.json", "settled", False, "still changing when the 12 rounds"),
        ("slim/result.json", "max_abs_diff_fold", 2e-4, "changed the logits by up to 0.0002"),
        ("slim/result.json", "flops", 21_000_000, "over its budget: 21,000,000 flops"),
        ("slim/result.json", "accuracy", 0.95, "model.onnx scores 99.33 %, +4.33 points from torch"),
        (
            "target.json",
            "unknown_operations",
            {"aten.fft": 2},
            "which keep whole what they touch: aten.fft (2).",
        ),
    ],
)
def test_what_a_reader_must_know_is_noted(
    finished: Path, contents: dict[str, Any], name: str, key: str, value: object, note: str
) -> None:
    assert note not in "\n".join(build(finished)["notes"])
    (finished / name).write_text(json.dumps(contents[name] | {key: value}))
    assert note in "\n".join(build(finished)["notes"])


def test_missing_gains_and_providers_are_noted(finished: Path) -> None:
    text = "\n".join(build(finished)["notes"])
    assert "No gain in speed: model.onnx at batch 8 on cpu measures 1.02x (0.97 to 1.06)." in text
    assert "model.onnx at batch 1" not in text
    assert "CUDA was not measured" not in text  # there is no GPU


def test_missing_gains_of_one_file_share_a_note(finished: Path, contents: dict[str, Any]) -> None:
    document = contents["bench/bench.json"]
    slower = {"speedup_vs_target": 0.9, "ratio_low": 0.86, "ratio_high": 0.94, "median_ms": 1.38}
    document["rows"][1] |= {"verdict": "no gain"} | slower
    (finished / "bench/bench.json").write_text(json.dumps(document))
    notes = build(finished)["notes"]
    told = "0.90x (0.86 to 0.94) at batch 1, 1.02x (0.97 to 1.06) at batch 8"
    assert [note for note in notes if "No gain" in note] == [
        f"No gain in speed: model.onnx on cpu measures {told}."
    ]


def test_a_gain_within_the_noise_is_called_so(finished: Path, contents: dict[str, Any]) -> None:
    document = contents["bench/bench.json"]
    document["rows"][1] |= {"verdict": "unclear", "ratio_low": 0.9}
    (finished / "bench/bench.json").write_text(json.dumps(document))
    summary = build(finished)
    assert (
        "The gain in speed is within the noise: model.onnx at batch 1 on cpu measures 1.46x (0.90 to 1.52); "
        "the figure is uncertain: its interval is wide."
    ) in summary["notes"]
    assert "| 1.46x (within the noise) | 0.90 to 1.52 |" in report.markdown(report.read(finished))


def test_what_disturbed_the_measuring_is_noted_once(finished: Path, contents: dict[str, Any]) -> None:
    document = contents["bench/bench.json"]
    for row in document["rows"]:
        row |= {"steady": False, "nodes_elsewhere": {"cpu": 3} if row["file"] == "model.onnx" else {}}
    skipped = [{"file": name, "provider": None, "batch": None, "reason": "so"} for name in ("a", "b")]
    (finished / "bench/bench.json").write_text(json.dumps(document | {"skipped": skipped}))
    notes = build(finished)["notes"]
    assert notes[-3:] == [
        "Latencies had not settled before the measuring (cpu, batch 1; cpu, batch 8): "
        "the machine may have been busy.",
        "On cpu, some of model.onnx is run by others: 3 nodes by cpu.",
        "Not measured: a, b: so.",
    ]


def test_a_failed_stage_is_called_failed(finished: Path, contents: dict[str, Any]) -> None:
    (finished / "bench/bench.json").unlink()
    manifest = contents["manifest.json"] | {"stages": {"bench": {"state": "failed"}}}
    (finished / "manifest.json").write_text(json.dumps(manifest))
    assert "bench failed: no latency was measured." in build(finished)["notes"]


def test_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        build(tmp_path)


@pytest.mark.parametrize("name", ["slim/result.json", "slim/plan.json", "bench/bench.json", "recipe.yaml"])
@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_damaged_files_are_named(finished: Path, name: str, text: str) -> None:
    (finished / name).write_text(text)
    with pytest.raises(RunDirectoryError, match=name.split("/")[-1]):
        build(finished)
