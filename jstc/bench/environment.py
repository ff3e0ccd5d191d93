"""The machine and the software a measurement was made with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from jstc import ort

__all__ = ["environment"]

_PACKAGES = ("jstc", "torch", "torchvision", "onnx", "onnxscript", "fvcore", "numpy", "timm")
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime")
_TIMEOUT_SECONDS = 20


def environment() -> dict[str, Any]:
    """A JSON document of CPU, memory, GPUs, versions, and the onnxruntime providers that work.

    `providers` maps `cpu` and `cuda` to "usable", or to the reason why not. What cannot be found out is None.
    """
    return {
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "memory_gb": _memory_gb(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "gpus": _gpus(),
        "providers": {"cpu": "usable", "cuda": ort.cuda_problem() or "usable"},
    }


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
    found = {}
    for name in (*_PACKAGES, *_RUNTIMES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> list[dict[str, str]]:
    text = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or ""
    rows = [line.rpartition(",") for line in text.splitlines() if "," in line]
    return [{"name": name.strip(), "driver": driver.strip()} for name, _, driver in rows]


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
