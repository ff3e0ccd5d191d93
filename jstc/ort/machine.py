"""This machine: processor, memory, GPUs and libraries, for whoever writes down what numbers were made with.

`environment` is all of it, beside measured times; `processor` is what a time in the latency table belongs to;
`versions` the packages that decide the numbers of a run. The processor's part is read from /proc and /sys of
Linux, the GPU's from nvidia-smi; None stands for what cannot be found out. Importing this loads no library.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from jstc._version import __version__
from jstc.core import processes

__all__ = [
    "PACKAGES_OF_NUMBERS",
    "PACKAGES_OF_TIMES",
    "cpu_limit",
    "environment",
    "flags",
    "frequency",
    "memory_limit_gb",
    "processor",
    "versions",
]

PACKAGES_OF_NUMBERS = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "fvcore", "numpy",
    "safetensors", "timm",
)  # fmt: skip
"""Packages that decide what a run computes."""

PACKAGES_OF_TIMES = (
    "torch", "torchvision", "onnx", "onnxscript", "fvcore", "numpy", "timm", "onnxruntime-gpu", "onnxruntime",
)  # fmt: skip
"""Packages that decide what is measured."""


def environment() -> dict[str, Any]:
    """A JSON document of CPU, memory, GPUs, versions, and the onnxruntime providers that work.

    `cores` are those that this process may use, `cpu_limit` the container's share of their time;
    `load_average` is that of the minute before. `providers` maps `cpu`, `cuda` and
    `tensorrt` to "usable", or to the reason why not. What cannot be found out is None.
    """
    from jstc.ort import sessions  # loads onnxruntime, which the other parts do without

    return {
        "cpu": _cpu_name(),
        "cores": processes.usable_cores(),
        "cpu_flags": flags(),
        "cpu_limit": cpu_limit(),
        "frequency": frequency(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "memory_gb": _memory_gb(),
        "memory_limit_gb": memory_limit_gb(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {"jstc": __version__, **versions(PACKAGES_OF_TIMES)},
        "gpus": _gpus(),
        "cuda": _cuda(),
        "providers": {name: sessions.problem(name) or "usable" for name in sessions.PROVIDER_NAMES},
    }


@cache
def processor(*, gpu: bool) -> str:
    """What computes, in one line: a GPU with its driver, or the CPU, its instruction sets, usable cores."""
    if gpu:
        found = _gpus()
        return f"{found[0]['name']}, {found[0]['driver']}" if found else "gpu"
    known = flags() or ()
    fast = "".join(f" {flag}" for flag in ("avx2", "avx512f", "avx512_vnni") if flag in known)
    return f"{_cpu_name()}{fast}, {processes.usable_cores()} cores"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of `packages` that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


# The processor.

_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instructions that onnxruntime's kernels choose by."""


def flags(root: Path = Path("/")) -> list[str] | None:
    """The processor's instruction sets, as far as they decide how fast networks run."""
    info = _cpuinfo(root)
    text = info.get("flags", info.get("Features"))
    return None if text is None else [name for name in _FLAGS if name in text.split()]


def frequency(root: Path = Path("/")) -> dict[str, Any]:
    """`governor` (powersave, performance ...), `max_mhz`, and whether `turbo` is on."""
    cpu = root / "sys/devices/system/cpu"
    limit = _read(cpu / "cpu0/cpufreq/scaling_max_freq")
    boost, no_turbo = _read(cpu / "cpufreq/boost"), _read(cpu / "intel_pstate/no_turbo")
    turbo = boost == "1" if boost is not None else no_turbo == "0" if no_turbo is not None else None
    return {
        "governor": _read(cpu / "cpu0/cpufreq/scaling_governor"),
        "max_mhz": int(limit) // 1000 if limit and limit.isdecimal() else None,
        "turbo": turbo,
    }


def _cpu_name() -> str | None:
    name = _cpuinfo().get("model name")
    if name is None and platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.processor() or platform.machine() or None if name is None else name


def _cpuinfo(root: Path = Path("/")) -> dict[str, str]:
    """Keys and values as the first core that has them says it."""
    found: dict[str, str] = {}
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


# A container's limits.

_NO_LIMIT_BYTES = 2**60  # what the first version of cgroups says for none


def cpu_limit(root: Path = Path("/")) -> float | None:
    """How many cores' time the container may use; None without a limit."""
    for folder in _groups(root, "cpu"):
        quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
        quota = quota or _read(folder / "cpu.cfs_quota_us") or ""
        period = period or _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(period):
            return round(int(quota) / int(period), 2)
    return None


def memory_limit_gb(root: Path = Path("/")) -> float | None:
    """The container's memory, in 10^9 bytes; None without a limit."""
    for folder in _groups(root, "memory"):
        text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes") or ""
        if text.isdecimal() and int(text) < _NO_LIMIT_BYTES:
            return round(int(text) / 1e9, 1)
    return None


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control groups, its own first; of both versions of cgroups."""
    found = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if not names or controller in names.split(","):
            base = root / "sys/fs/cgroup" / (controller if names else "")
            found += [base / path.lstrip("/"), base]
    return found


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


# The GPU and its libraries.

_GPU_KEYS = {"name": "name", "driver": "driver_version", "memory": "memory.total"}
_CUDA_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cudnn", "tensorrt")
_TIMEOUT_SECONDS = 20


def _gpus() -> list[dict[str, str]]:
    text = _output("nvidia-smi", f"--query-gpu={','.join(_GPU_KEYS.values())}", "--format=csv,noheader") or ""
    # From the right: names may have commas in them.
    rows = [line.rsplit(",", len(_GPU_KEYS) - 1) for line in text.splitlines()]
    return [
        dict(zip(_GPU_KEYS, map(str.strip, row), strict=True)) for row in rows if len(row) == len(_GPU_KEYS)
    ]


def _cuda() -> dict[str, str]:
    """Versions of the libraries from NVIDIA's packages for pip that onnxruntime loads."""
    suffixes = ("", "-cu13", "-cu12")
    return {
        name: version
        for name in _CUDA_PACKAGES
        for version in versions(name + suffix for suffix in suffixes).values()
    }


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
