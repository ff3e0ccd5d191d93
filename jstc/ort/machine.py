"""The machine and the software a measurement was made with."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime

from jstc._version import __version__
from jstc.ort import sessions
from jstc.ort.sessions import Provider

__all__ = [
    "Setting",
    "busy",
    "cpu_limit",
    "environment",
    "flags",
    "frequency",
    "load_average",
    "memory_limit_gb",
]

# The processor as the system tells of it: instruction sets, frequency, load, and a container's limits.
#
# All of it is read from /proc and /sys of Linux; None stands for what cannot be found out.

_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instructions that onnxruntime's kernels choose by."""

_NO_LIMIT_BYTES = 2**60  # what the first version of cgroups says for none


def flags(root: Path = Path("/")) -> list[str] | None:
    """Those of the processor's instruction sets that decide how fast networks run."""
    text = _read(root / "proc/cpuinfo") or ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = set(value.split())
            return [name for name in _FLAGS if name in found]
    return None


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


def load_average() -> float | None:
    """Of the last minute: how many processes ran or wanted to, this one included."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


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
        "cpu_flags": flags(),
        "cpu_limit": cpu_limit(),
        "frequency": frequency(),
        "load_average": load_average(),
        "memory_gb": _memory_gb(),
        "memory_limit_gb": memory_limit_gb(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "gpus": _gpus(),
        "cuda": _cuda(),
        "providers": {name: sessions.problem(name) or "usable" for name in sessions.PROVIDER_NAMES},
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
    found = {"jstc": __version__}
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


# What a measured time belongs to: the processor, the provider and how it is used.

_LATENCY_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Setting:
    """A table is measured once for each of these. `processor` is the CPU or GPU with its cores."""

    provider: Provider
    batch: int
    threads: int
    processor: str
    onnxruntime: str

    @classmethod
    def here(cls, provider: Provider, *, batch: int, threads: int) -> Setting:
        """On this machine."""
        processor = _cpu() if provider == "cpu" else _gpu()
        return cls(provider, batch, threads, processor, onnxruntime.__version__)

    def to_dict(self) -> dict[str, str | int]:
        """A JSON document."""
        return asdict(self)


@cache
def _cpu() -> str:
    """Model name, instructions that decide the kernels, and usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        name = found.get("model name", name)
        known = found.get("flags", "").split()
        flags = "".join(f" {flag}" for flag in ("avx2", "avx512f", "avx512_vnni") if flag in known)
    return f"{name}{flags}, {cores} cores"


@cache
def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "gpu"
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LATENCY_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "gpu"
    return (done.stdout.strip().splitlines() or ["gpu"])[0]
