"""onnxruntime sessions: one place that chooses providers and keeps onnxruntime quiet. No torch here.

onnxruntime lists the CUDA and TensorRT providers wherever it was built with them, even on a machine without
a GPU, and falls back to the CPU with a warning. Here a provider is offered only after it ran a model.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from jstc.core import files, processes
from jstc.errors import InputError

__all__ = [
    "ORT_ERRORS",
    "PROVIDER_NAMES",
    "Port",
    "Provider",
    "Signature",
    "cuda_problem",
    "first_line",
    "inputs",
    "onnx_files",
    "open_session",
    "problem",
    "require_file",
    "resolve",
    "signature",
    "tensorrt_problem",
]

Provider = Literal["cpu", "cuda", "tensorrt"]

PROVIDER_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""What onnxruntime calls them."""

_FATAL = 4
_TINY_OPSET = 17

# onnxruntime's exceptions share no base class of their own
ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(ort_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)


@dataclass(frozen=True)
class Port:
    """An input of a file. A size is a number, the name of a dynamic one, or None for one without a name."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Signature:
    """What an image classifier in ONNX takes and gives. None stands for a dynamic size.

    `input_shape` is [N, C, H, W], `num_classes` the last size of the first output.
    """

    input_name: str
    input_type: str
    input_shape: tuple[int | None, ...]
    num_classes: int | None


def resolve(provider: Literal["auto", "cpu", "cuda", "tensorrt"]) -> Provider:
    """The provider to use: `auto` is CUDA where it works, else the CPU; not TensorRT, slow to build.

    Raises `InputError` when one is asked for that does not work here, with the reason.
    """
    if provider == "auto":
        return "cpu" if cuda_problem() else "cuda"
    found = problem(provider)
    if found is None:
        return provider
    raise InputError(f"provider '{provider}' cannot be used here: {found}; use 'cpu' or 'auto'")


def problem(provider: Provider) -> str | None:
    """Why onnxruntime cannot use the provider on this machine, or None when it can."""
    if provider == "cpu":
        return None
    return cuda_problem() if provider == "cuda" else tensorrt_problem()


@cache
def cuda_problem() -> str | None:
    """Why onnxruntime cannot use CUDA on this machine, or None when it ran a model there."""
    if PROVIDER_NAMES["cuda"] not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without CUDA"
    if not _driver_present():
        return "no NVIDIA driver was found"
    complaint = _preload()
    return _tried("cuda", "CUDA", complaint)


@cache
def tensorrt_problem() -> str | None:
    """Why onnxruntime cannot use TensorRT on this machine, or None when it ran a model there."""
    if PROVIDER_NAMES["tensorrt"] not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without TensorRT"
    without_cuda = cuda_problem()
    if without_cuda is not None:
        return without_cuda
    try:  # NVIDIA's package for pip; it loads its libraries when it is imported
        importlib.import_module("tensorrt_libs")
        complaint = ""
    except (ImportError, OSError):
        complaint = "is TensorRT installed?"
    return _tried("tensorrt", "TensorRT", complaint)


def _tried(provider: Provider, name: str, complaint: str) -> str | None:
    try:
        session = _create(_tiny_model(), provider, threads=1)
        if PROVIDER_NAMES[provider] in session.get_providers():
            session.run(None, {"x": [0.0]})
            return None
    except ORT_ERRORS as error:
        complaint = complaint or first_line(error)
    return f"onnxruntime could not load its {name} provider ({complaint or 'it gives no reason'})"


def open_session(
    path: Path, *, provider: Provider = "cpu", threads: int = 0, profile: Path | None = None
) -> Any:
    """An `onnxruntime.InferenceSession` for the file; `threads` 0 is onnxruntime's own choice.

    With `profile`, the beginning of a file's name, onnxruntime records what every node takes, until
    `end_profiling` of the session, which gives the file. Raises `InputError` when the file is missing or is
    not a model that onnxruntime can run there.
    """
    require_file(path)
    resolve(provider)
    try:
        session = _create(str(path), provider, threads=threads, profile=profile)
    except ORT_ERRORS as error:
        raise InputError(
            f"{path} is not an ONNX model that onnxruntime can run: {first_line(error)}"
        ) from None
    if PROVIDER_NAMES[provider] not in session.get_providers():
        raise InputError(f"onnxruntime did not take '{provider}' for {path}, only {session.get_providers()}")
    return session


def require_file(path: Path) -> None:
    """Raise `InputError` unless there is a file at `path`."""
    if not path.exists():
        raise InputError(f"no such ONNX file: {path}")
    files.require_regular(path)


def onnx_files(path: Path) -> list[Path] | None:
    """The ONNX files that a path stands for: itself, or those beside a slim network that `Slim.save` wrote.

    None for anything else, such as a run directory.
    """
    if path.suffix == ".onnx" and not path.is_dir():
        return [path]
    saved = all((path / name).is_file() for name in ("model.json", "plan.json"))
    return sorted(path.glob("*.onnx")) if saved else None


def inputs(session: Any) -> tuple[Port, ...]:
    """What the session's model takes."""
    return tuple(
        Port(
            item.name, item.type, tuple(size if isinstance(size, int | str) else None for size in item.shape)
        )
        for item in session.get_inputs()
    )


def signature(session: Any, path: Path) -> Signature:
    """Input and output of the session's model.

    Raises `InputError` when it is not one image input [N, C, H, W] and an output [N, classes].
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        found = ", ".join(f"{item.name} {item.shape}" for item in inputs) or "none"
        raise InputError(f"{path}: expected one input [N, C, H, W], found {found}")
    if len(outputs[0].shape) != 2:
        raise InputError(f"{path}: expected an output [N, classes], found {outputs[0].shape}")
    shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
    classes = outputs[0].shape[1]
    return Signature(inputs[0].name, inputs[0].type, shape, classes if isinstance(classes, int) else None)


def _create(model: str | bytes, provider: Provider, *, threads: int, profile: Path | None = None) -> Any:
    # Providers that fail to load complain in the default logger, not in the session's.
    onnxruntime.set_default_logger_severity(_FATAL)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    # Idle threads of one session would spin through the runs of the next: measured 2x slower without this.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(model, options, providers=_chain(model, provider), enable_fallback=0)


def _chain(model: str | bytes, provider: Provider) -> list[Any]:
    """The provider, with its options, and those that take what it cannot run."""
    cpu = PROVIDER_NAMES["cpu"]
    # Of several processes on this machine each has a GPU of its own.
    gpu = {"device_id": str(processes.local_rank())} if processes.local_rank() else {}
    if provider == "tensorrt":
        first = (PROVIDER_NAMES["tensorrt"], _tensorrt_options(model) | gpu)
        return [first, (PROVIDER_NAMES["cuda"], gpu), cpu]
    return [cpu] if provider == "cpu" else [(PROVIDER_NAMES[provider], gpu), cpu]


def _tensorrt_options(model: str | bytes) -> dict[str, str]:
    # TensorRT refuses float16 and quantised graphs unless it is told to use these.
    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    half = any(item.data_type == onnx.TensorProto.FLOAT16 for item in loaded.graph.initializer)
    quantised = any(node.op_type == "DequantizeLinear" for node in loaded.graph.node)
    return {"trt_fp16_enable": str(half), "trt_int8_enable": str(quantised)}


def _driver_present() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _preload() -> str:
    # Finds the CUDA libraries that pip installed; it prints what it misses, which we keep as a reason.
    if not hasattr(onnxruntime, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls()
    lines = printed.getvalue().splitlines()
    return lines[0].strip() if lines else ""


def _tiny_model() -> bytes:
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "tiny",
        [tensor("x", onnx.TensorProto.FLOAT, [1])],
        [tensor("y", onnx.TensorProto.FLOAT, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", _TINY_OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def first_line(error: Exception) -> str:
    """What an error of onnxruntime says, without its codes."""
    # "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from a.onnx failed:Protobuf parsing failed."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?", "", lines[0])
