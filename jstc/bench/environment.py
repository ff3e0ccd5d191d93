"""The machine and the software a measurement was made with."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jstc
from jstc import ort
from jstc.bench import machine

__all__ = ["busy", "environment"]

_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "fvcore", "numpy", "timm")
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime")
_GPU_KEYS = {"name": "name", "driver": "driver_version", "memory": "memory.total"}
_CUDA_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cudnn", "tensorrt")
_TIMEOUT_SECONDS = 20
_BUSY = 0.5  # of the cores


def environment() -> dict[str, Any]:
    """A JSON document of CPU, memory, GPUs, versions, and the onnxruntime providers that work.

    `cores` are those that this process may use, `cpu_limit` the container's share of their time;
    `load_average` is that of the minute before. `providers` maps `cpu`, `cuda` and
    `tensorrt` to "usable", or to the reason why not. What cannot be found out is None.
    """
    return {
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "cpu_flags": machine.flags(),
        "cpu_limit": machine.cpu_limit(),
        "frequency": machine.frequency(),
        "load_average": machine.load_average(),
        "memory_gb": _memory_gb(),
        "memory_limit_gb": machine.memory_limit_gb(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "gpus": _gpus(),
        "cuda": _cuda(),
        "providers": {name: ort.problem(name) or "usable" for name in ort.PROVIDER_NAMES},
    }


def busy(machine: Mapping[str, Any]) -> str | None:
    """What to say of a machine, as `environment` found it, that had other work before the measuring began."""
    load, cores = machine["load_average"], machine["cores"]
    if load is None or not cores or load <= _BUSY * cores:
        return None
    return f"the machine was busy (load {load:g} on {cores} cores before the start): times are noisy"


def _cpu_name() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.processor() or platform.machine() or None


def _usable_cores() -> int | None:
    # Containers and job schedulers often leave a process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _versions() -> dict[str, str]:
    found = {"jstc": jstc.__version__}
    for name in (*_PACKAGES, *_RUNTIMES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> list[dict[str, str]]:
    text = _output("nvidia-smi", f"--query-gpu={','.join(_GPU_KEYS.values())}", "--format=csv,noheader") or ""
    # From the right: names may have commas in them.
    rows = [line.rsplit(",", len(_GPU_KEYS) - 1) for line in text.splitlines()]
    return [
        dict(zip(_GPU_KEYS, map(str.strip, row), strict=True)) for row in rows if len(row) == len(_GPU_KEYS)
    ]


def _cuda() -> dict[str, str]:
    """Versions of the libraries from NVIDIA's packages for pip that onnxruntime loads."""
    found = {}
    for name in _CUDA_PACKAGES:
        for suffix in ("", "-cu13", "-cu12"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name + suffix)
    return found


def _output(program: str, *arguments: str) -> str | None:
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
