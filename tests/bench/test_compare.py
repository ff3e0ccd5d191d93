from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jstc import bench, ort
from jstc.bench.compare import _verdict
from jstc.bench.statistics import Ratio
from jstc.errors import InputError
from jstc.recipe import BenchSettings

QUICK = BenchSettings(provider="cpu", batch_sizes=(1, 4), threads=1, seconds=0.05)


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

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self) -> None:
        self.finished = True


def test_every_file_is_measured_at_every_batch_size(make_classifier: Callable[..., Path]) -> None:
    files = {"target": make_classifier("a.onnx", layers=12), "model.onnx": make_classifier("b.onnx")}
    progress = Recorder()
    rows = bench.compare(files, settings=QUICK, progress=progress)
    assert [(row.file, row.batch) for row in rows] == [
        ("target", 1), ("model.onnx", 1), ("target", 4), ("model.onnx", 4),
    ]  # fmt: skip
    assert (progress.total, progress.updates, progress.finished) == (2, [1, 2], True)
    assert all(row.provider == "cpu" and row.runs >= 5 for row in rows)
    assert all(row.images_per_second == pytest.approx(1e3 * row.batch / row.median_ms) for row in rows)


def test_a_smaller_network_is_a_gain_and_the_target_is_one(make_classifier: Callable[..., Path]) -> None:
    big = make_classifier("a.onnx", layers=40, shape=("batch", 3, 32, 32))
    small = make_classifier("b.onnx", shape=("batch", 3, 32, 32))
    target, row = bench.compare(
        {"target": big, "small": small}, settings=QUICK.model_copy(update={"batch_sizes": (4,)})
    )
    assert (target.speedup_vs_target, target.verdict) == (1.0, "target")
    assert row.ratio_low <= row.speedup_vs_target <= row.ratio_high
    assert row.speedup_vs_target > 3
    assert row.verdict == "gain"
    assert row.bytes == small.stat().st_size < target.bytes


def test_rows_become_json(make_classifier: Callable[..., Path]) -> None:
    [row] = bench.compare({"target": make_classifier()}, settings=BenchSettings(
        provider="cpu", batch_sizes=(2,), seconds=0.01))  # fmt: skip
    document = row.to_dict()
    assert document["file"] == "target"
    assert {"median_ms", "p95_ms", "speedup_vs_target", "ratio_low", "ratio_high", "runs"} <= set(document)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(Ratio(1.05, 1.04, 1.06), "no gain"), (Ratio(0.7, 0.6, 0.8), "no gain"),
     (Ratio(1.2, 0.9, 1.5), "unclear"), (Ratio(1.2, 1.1, 1.3), "gain")],
)  # fmt: skip
def test_speed_ups_are_called_by_their_name(ratio: Ratio, verdict: str) -> None:
    assert _verdict(ratio) == verdict


def test_auto_says_what_it_took(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "cuda_problem", lambda: "no NVIDIA driver was found")
    progress = Recorder()
    settings = BenchSettings(provider="auto", batch_sizes=(1,), seconds=0.01)
    [row] = bench.compare({"target": make_classifier()}, settings=settings, progress=progress)
    assert row.provider == "cpu"
    assert progress.messages == ["bench: provider auto is cpu here: no NVIDIA driver was found"]


@pytest.mark.parametrize(
    ("shape", "says"),
    [((1, 3, 8, 8), r"fixed batch size of 1; set bench.batch_sizes to \[1\]"),
     (("batch", 3, "h", "w"), "float images of a fixed size")],
)  # fmt: skip
def test_files_that_cannot_be_timed_are_refused(
    make_classifier: Callable[..., Path], shape: tuple[int | str, ...], says: str
) -> None:
    path = make_classifier(shape=shape)
    with pytest.raises(InputError, match=says):
        bench.compare({"target": path}, settings=QUICK)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="at least one ONNX file"):
        bench.compare({}, settings=QUICK)
