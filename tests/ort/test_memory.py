from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jstc.ort import memory
from jstc.ort.memory import PeakMemory, Task, peak_memory

needs_linux = pytest.mark.skipif(memory.missing() is not None, reason=memory.missing() or "")


@needs_linux
def test_a_larger_batch_takes_more_memory(make_classifier: Callable[..., Path]) -> None:
    path = str(make_classifier(shape=("batch", 3, 64, 64)))
    small, large = peak_memory([Task(path, "cpu", 1, 1), Task(path, "cpu", 512, 1)])
    images_mb = 512 * 3 * 64 * 64 * 4 / 1e6
    assert small.mb is not None
    assert large.mb is not None
    assert small.mb < 40
    assert large.mb - small.mb > images_mb  # at the least what the convolution gives


@needs_linux
def test_what_one_file_took_does_not_count_for_the_next(make_classifier: Callable[..., Path]) -> None:
    path = str(make_classifier(shape=("batch", 3, 64, 64)))
    large, small = peak_memory([Task(path, "cpu", 512, 1), Task(path, "cpu", 1, 1)])
    assert small.mb is not None
    assert small.mb < (large.mb or 0) / 2


@needs_linux
def test_a_file_that_cannot_be_run_has_a_reason(make_classifier: Callable[..., Path]) -> None:
    fixed = str(make_classifier(shape=(2, 3, 8, 8)))
    wrong, right = peak_memory([Task(fixed, "cpu", 5, 1), Task(fixed, "cpu", 2, 1)])
    assert wrong.mb is None
    assert "invalid dimensions" in (wrong.reason or "")
    assert right.reason is None


def test_a_process_that_fails_gives_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, ["python"])

    monkeypatch.setattr(memory, "missing", lambda: None)
    monkeypatch.setattr(subprocess, "run", fail)
    [answer] = peak_memory([Task("a.onnx", "cpu", 1, 1)])
    assert answer.mb is None
    assert "the process that measures it failed" in (answer.reason or "")


def test_other_systems_say_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.fork", raising=False)
    reason = "peak memory of a process is read from /proc, which only Linux has"
    assert peak_memory([Task("a.onnx", "cpu", 1, 1)] * 2) == [PeakMemory(None, reason)] * 2
