from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import pytest

from jstc.errors import InputError
from jstc.ort import sessions

CUDA = "CUDAExecutionProvider"


@pytest.fixture
def fresh() -> Iterator[None]:
    """The answer about CUDA is kept for the life of the process: ask again here."""
    sessions.cuda_problem.cache_clear()
    yield
    sessions.cuda_problem.cache_clear()


def save(path: Path, *, shape: tuple[int | str, ...], output: tuple[int | str, ...] = ("n", 4)) -> Path:
    info = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["y"])]
    inputs, outputs = info("x", onnx.TensorProto.FLOAT, shape), info("y", onnx.TensorProto.FLOAT, output)
    graph = onnx.helper.make_graph(nodes, "g", [inputs], [outputs])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path


@pytest.mark.usefixtures("fresh")
def test_an_onnxruntime_without_cuda_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "was built without CUDA" in str(sessions.cuda_problem())


@pytest.mark.usefixtures("fresh")
def test_a_listed_provider_without_a_driver_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(sessions, "_driver_present", lambda: False)
    assert sessions.cuda_problem() == "no NVIDIA driver was found"
    assert sessions.resolve("auto") == "cpu"
    with pytest.raises(InputError, match="no NVIDIA driver was found; use 'cpu' or 'auto'"):
        sessions.resolve("cuda")


@pytest.mark.usefixtures("fresh")
def test_a_provider_that_fails_to_load_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(sessions, "_driver_present", lambda: True)
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: print("Failed to load libx.so\nmore"), raising=False
    )
    create = sessions._create
    monkeypatch.setattr(
        sessions, "_create", lambda model, provider, threads: create(model, "cpu", threads=threads)
    )
    assert sessions.cuda_problem() == "onnxruntime could not load its CUDA provider (Failed to load libx.so)"


@pytest.mark.parametrize("driver", ["True", "False"])
def test_asking_for_providers_prints_nothing(driver: str) -> None:
    code = f"""
from jstc.ort import sessions
sessions._driver_present = lambda: {driver}
sessions.resolve("auto")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_the_signature_tells_dynamic_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", shape=("n", 1, 2, 2))
    found = sessions.signature(sessions.open_session(path), path)
    assert (found.input_name, found.input_type) == ("x", "tensor(float)")
    assert (found.input_shape, found.num_classes) == ((None, 1, 2, 2), 4)


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", shape=("n", 4))
    with pytest.raises(InputError, match=r"expected one input \[N, C, H, W\], found x \['n', 4\]"):
        sessions.signature(sessions.open_session(path), path)


def test_threads_are_as_asked(tmp_path: Path) -> None:
    session = sessions.open_session(save(tmp_path / "a.onnx", shape=("n", 1, 2, 2)), threads=1)
    assert session.get_session_options().intra_op_num_threads == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such ONNX file: .*nothing\.onnx"):
        sessions.open_session(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x09"])
def test_a_file_that_is_not_onnx_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not an ONNX model that onnxruntime can run: ") as caught:
        sessions.open_session(path)
    assert "ONNXRuntimeError" not in str(caught.value)
    assert "\n" not in str(caught.value)
