from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jstc.errors import InputError
from jstc.ort import memory, opened, sessions
from jstc.ort.memory import Task


@pytest.fixture
def silent_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime that takes CUDA and runs everything on the CPU."""
    create = sessions._create
    monkeypatch.setattr(sessions, "cuda_problem", lambda: None)
    monkeypatch.setattr(
        sessions, "_create", lambda model, provider, **options: create(model, "cpu", **options)
    )
    monkeypatch.setitem(sessions.PROVIDER_NAMES, "cuda", "CPUExecutionProvider")
    images = np.zeros((1, 3, 8, 8), np.float32)
    monkeypatch.setattr(
        opened, "prepare", lambda file, batch: lambda: file.session.run(None, {"images": images})
    )


@pytest.mark.usefixtures("silent_fallback")
def test_a_file_that_fell_back_as_a_whole_is_refused(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = sessions.open_session

    def open_session(*args: Any, **options: Any) -> Any:
        found = take(*args, **options)
        monkeypatch.setitem(sessions.PROVIDER_NAMES, "cuda", "CUDAExecutionProvider")
        return found

    monkeypatch.setattr(sessions, "open_session", open_session)
    with pytest.raises(
        InputError, match=r"none of its nodes run on cuda; onnxruntime gave them to {'cpu': 4}"
    ):
        opened.open_file("model", make_classifier(layers=1), provider="cuda")


def test_nodes_elsewhere_are_counted() -> None:
    used = Counter({"CUDAExecutionProvider": 7, "CPUExecutionProvider": 2, "OtherProvider": 1})
    assert opened._elsewhere(used, "cuda", Path("a.onnx")) == {"cpu": 2, "OtherProvider": 1}


@pytest.mark.usefixtures("silent_fallback")
def test_after_its_first_run_a_session_is_profiled_no_more(make_classifier: Callable[..., Path]) -> None:
    found = opened.open_file("model", make_classifier(metadata={"flops": "12"}), provider="cuda")
    assert found.elsewhere == {}
    assert found.facts.flops == 12
    assert not list(Path().glob("*first*.json"))


def test_device_memory_is_what_the_session_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Held:
        def __del__(self) -> None:
            events.append("freed")

    def used() -> int:
        events.append("asked")
        return 100 + 50 * len(events)

    monkeypatch.setattr(sessions, "resolve", lambda provider: provider)
    monkeypatch.setattr(memory, "_device_used", used)
    monkeypatch.setattr(memory, "_run", lambda task: Held())
    assert memory.measured(Task("a.onnx", "cuda", 1, 0)) == 50
    assert events == ["asked", "asked", "freed"]
