from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jstc.errors import InputError
from jstc.ort import bench, memory, sessions
from jstc.ort.doubts import Disturbance, Watch, verdict
from jstc.ort.opened import Facts
from jstc.ort.statistics import Ratio
from jstc.recipe.schema import BenchSettings

QUICK = BenchSettings(provider="cpu", batch_sizes=(1, 4), threads=1, seconds=0.05, memory=False)


class Recorder:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.updates: list[int] = []
        self.finished = False

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total = total

    def update(self, done: int, **figures: float) -> None:
        self.updates.append(done)
        self.figures = figures

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self) -> None:
        self.finished = True


def with_batches(*sizes: int) -> BenchSettings:
    return QUICK.model_copy(update={"batch_sizes": sizes})


def test_every_file_is_measured_at_every_batch_size(make_classifier: Callable[..., Path]) -> None:
    files = {"target": make_classifier("a.onnx", layers=12), "model.onnx": make_classifier("b.onnx")}
    progress = Recorder()
    rows = bench.time_all(files, settings=QUICK, progress=progress)
    assert [(row.file, row.batch) for row in rows] == [
        ("target", 1), ("model.onnx", 1), ("target", 4), ("model.onnx", 4),
    ]  # fmt: skip
    assert (progress.total, progress.updates, progress.finished) == (2, [1, 2], True)
    assert progress.figures == {
        "batch": 4,
        "target ms": rows[2].median_ms,
        "model.onnx ms": rows[3].median_ms,
    }
    assert all(row.provider == "cpu" and row.runs >= 5 and row.io == "host" for row in rows)
    assert all(row.images_per_second == pytest.approx(1e3 * row.batch / row.median_ms) for row in rows)


def test_a_smaller_network_is_a_gain_and_the_target_is_one(make_classifier: Callable[..., Path]) -> None:
    big = make_classifier("a.onnx", layers=40, shape=("batch", 3, 32, 32))
    small = make_classifier("b.onnx", shape=("batch", 3, 32, 32))
    target, row = bench.time_all({"target": big, "small": small}, settings=with_batches(4))
    assert (target.speedup_vs_target, target.verdict) == (1.0, "target")
    assert row.ratio_low <= row.speedup_vs_target <= row.ratio_high
    assert row.speedup_vs_target > 3
    assert row.verdict == verdict(Ratio(row.speedup_vs_target, row.ratio_low, row.ratio_high))
    assert row.bytes == small.stat().st_size < target.bytes


def test_the_share_of_the_ideal_is_the_speed_up_over_the_flops(make_classifier: Callable[..., Path]) -> None:
    big = make_classifier("a.onnx", layers=8, metadata={"flops": "800", "precision": "fp32"})
    small = make_classifier("b.onnx", layers=2, metadata={"flops": "200"})
    target, row = bench.time_all({"target": big, "small": small}, settings=with_batches(1))
    assert (target.flops, target.flops_ratio, target.ideal_share) == (800, None, None)
    assert (target.precision, row.precision) == ("fp32", None)
    assert row.flops_ratio == 4.0
    assert row.ideal_share == pytest.approx(row.speedup_vs_target / 4)


@pytest.mark.parametrize("flops", ["", "many", "0"])
def test_unknown_flops_give_no_share(make_classifier: Callable[..., Path], flops: str) -> None:
    files = {
        "target": make_classifier("a.onnx", metadata={"flops": "800"}),
        "small": make_classifier("b.onnx", metadata={"flops": flops}),
    }
    _, row = bench.time_all(files, settings=with_batches(1))
    assert (row.flops, row.flops_ratio, row.ideal_share) == (None, None, None)


def test_what_is_given_comes_before_what_the_file_says(make_classifier: Callable[..., Path]) -> None:
    path = make_classifier(metadata={"flops": "800", "precision": "fp32"})
    known = {"target": Facts(flops=7, precision="int8")}
    [row] = bench.measure({"target": path}, settings=with_batches(1), facts=known).rows
    assert (row.flops, row.precision) == (7, "int8")


def test_float16_inputs_are_timed(make_classifier: Callable[..., Path]) -> None:
    files = {"target": make_classifier("a.onnx"), "half": make_classifier("b.onnx", half=True)}
    assert [row.file for row in bench.time_all(files, settings=with_batches(2))] == ["target", "half"]


def test_a_fixed_batch_is_timed_at_that_only_beside_the_target(make_classifier: Callable[..., Path]) -> None:
    files = {"target": make_classifier("a.onnx"), "fixed": make_classifier("b.onnx", shape=(3, 3, 8, 8))}
    found = bench.measure(files, settings=with_batches(1, 3))
    assert [(row.file, row.batch) for row in found.rows] == [("target", 1), ("target", 3), ("fixed", 3)]
    [left] = found.skipped
    assert (left.file, left.batch) == ("fixed", 1)
    assert "has a fixed batch size of 3 and is timed at that only" in left.reason


def test_a_fixed_batch_that_nobody_asked_for_is_timed(make_classifier: Callable[..., Path]) -> None:
    path = make_classifier(shape=(3, 3, 8, 8))
    found = bench.measure({"target": path}, settings=QUICK)
    assert [(row.batch, row.verdict) for row in found.rows] == [(3, "target")]
    assert [(left.batch, left.file) for left in found.skipped] == [(b, "target") for b in QUICK.batch_sizes]


def test_files_of_one_fixed_batch_are_not_compared_at_another(make_classifier: Callable[..., Path]) -> None:
    files = {name: make_classifier(f"{name}.onnx", shape=(3, 3, 8, 8)) for name in "ab"}
    assert [row.batch for row in bench.time_all(files, settings=with_batches(3))] == [3, 3]
    with pytest.raises(InputError, match="fixed batch size of 3 and is timed at that only"):
        bench.time_all(files, settings=with_batches(1))


def test_without_the_target_at_a_batch_the_others_are_timed(make_classifier: Callable[..., Path]) -> None:
    files = {"target": make_classifier("a.onnx", shape=(1, 3, 8, 8)), "free": make_classifier("b.onnx")}
    found = bench.measure(files, settings=QUICK)
    verdicts = {(row.file, row.batch): row.verdict for row in found.rows}
    assert verdicts[("free", 4)] == "no target"
    assert set(verdicts) == {("target", 1), ("free", 1), ("free", 4)}


def test_a_file_that_cannot_be_timed_leaves_the_others(make_classifier: Callable[..., Path]) -> None:
    files = {
        "target": make_classifier("a.onnx"),
        "huge": make_classifier("b.onnx", shape=("batch", 3, 100_000, 100_000)),
        "broken": make_classifier("c.onnx"),
        "small": make_classifier("d.onnx"),
    }
    files["broken"].write_bytes(b"no graph")
    found = bench.measure(files, settings=with_batches(1))
    assert [row.file for row in found.rows] == ["target", "small"]
    reasons = {left.file: left.reason for left in found.skipped}
    assert "its input 'images' [None, 3, 100000, 100000] is too large to be timed" in reasons["huge"]
    assert "is not an ONNX model" in reasons["broken"]


def test_an_uncertain_interval_is_measured_longer_but_not_for_compare(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool | None] = []

    def timed(runs: list[object], *, seconds: float, enough: Callable[..., bool] | None = None) -> object:
        wide = np.array([[1.0, 0.1], [1.0, 1.0], [1.0, 0.2], [1.0, 1.5], [1.0, 0.4]])
        narrow = np.array([[1.0, 0.5], [1.1, 0.55]] * 20)
        asked.append(None if enough is None else (enough(wide), enough(narrow)) == (False, True))
        return narrow

    monkeypatch.setattr(bench, "interleaved_seconds", timed)
    files = {"target": make_classifier("a.onnx"), "model": make_classifier("b.onnx")}
    bench.measure(files, settings=with_batches(1))
    bench.time_all(files, settings=with_batches(1))
    bench.measure({"target": files["target"]}, settings=with_batches(1))
    assert asked == [True, None, True]


def test_a_busy_machine_is_told_of_and_stays_with_the_rows(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "found", Disturbance(others=0.61, waited=0.3, stolen=0.0))
    progress = Recorder()
    [row] = bench.measure({"target": make_classifier()}, settings=with_batches(1), progress=progress).rows
    assert row.to_dict()["disturbance"] == {"others": 0.61, "waited": 0.3, "stolen": 0.0}
    assert progress.messages == [
        "bench: the machine is busy, batch 1: other programs took 61 % of the processor, the measured "
        "threads waited 30 % of their time for a core"
    ]


def test_rows_become_json(make_classifier: Callable[..., Path]) -> None:
    found = bench.measure({"target": make_classifier()}, settings=with_batches(2))
    document = json.loads(json.dumps(found.to_dict()))
    assert set(document) == {"rows", "skipped"}
    [row] = document["rows"]
    assert list(row)[:12] == [
        "file", "bytes", "provider", "batch", "median_ms", "p95_ms", "images_per_second",
        "speedup_vs_target", "ratio_low", "ratio_high", "runs", "verdict",
    ]  # fmt: skip


def test_auto_says_what_it_took(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "cuda_problem", lambda: "no NVIDIA driver was found")
    progress = Recorder()
    settings = with_batches(1).model_copy(update={"provider": "auto"})
    [row] = bench.time_all({"target": make_classifier()}, settings=settings, progress=progress)
    assert row.provider == "cpu"
    assert progress.messages[0] == "bench: provider auto is cpu here: no NVIDIA driver was found"


def test_a_provider_that_does_not_work_leaves_the_others(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "tensorrt_problem", lambda: "is TensorRT installed?")
    progress = Recorder()
    settings = with_batches(1).model_copy(update={"provider": ("tensorrt", "cpu")})
    found = bench.measure({"target": make_classifier()}, settings=settings, progress=progress)
    assert [row.provider for row in found.rows] == ["cpu"]
    assert [(left.provider, left.reason) for left in found.skipped] == [
        ("tensorrt", "is TensorRT installed?")
    ]
    assert "bench: not measured on tensorrt: is TensorRT installed?" in progress.messages


def test_no_provider_left_is_an_error(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "cuda_problem", lambda: "no NVIDIA driver was found")
    settings = with_batches(1).model_copy(update={"provider": "cuda"})
    with pytest.raises(InputError, match="nothing could be measured: no NVIDIA driver was found"):
        bench.measure({"target": make_classifier()}, settings=settings)


def test_compare_measures_all_or_nothing(make_classifier: Callable[..., Path]) -> None:
    files = {"a": make_classifier("a.onnx"), "b": make_classifier("b.onnx", shape=(1, 3, 8, 8))}
    with pytest.raises(InputError, match="fixed batch size of 1"):
        bench.time_all(files, settings=QUICK)


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one ONNX file"):
        bench.time_all({}, settings=QUICK)
    with pytest.raises(InputError, match="no such ONNX file"):
        bench.measure({"target": tmp_path / "a.onnx"}, settings=QUICK)


def test_a_file_that_is_not_steady_is_named(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    restless = bench.time_all.__globals__["WarmUp"](12, (True, False))
    monkeypatch.setitem(bench.time_all.__globals__, "warm_up", lambda runs, seconds: restless)
    files = {"target": make_classifier("a.onnx"), "model": make_classifier("b.onnx")}
    progress = Recorder()
    rows = bench.time_all(files, settings=with_batches(1), progress=progress)
    assert [(row.steady, row.warm_up_rounds) for row in rows] == [(True, 12), (False, 12)]
    assert progress.messages == ["bench: still not steady after 12 rounds at batch 1: model"]


def test_memory_that_cannot_be_had_is_null_with_a_reason(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "missing", lambda: "no /proc here")
    settings = with_batches(1).model_copy(update={"memory": True})
    [row] = bench.measure({"target": make_classifier()}, settings=settings).rows
    assert (row.peak_memory_mb, row.peak_memory_of) == (None, None)
    assert row.peak_memory_missing == "no /proc here"
