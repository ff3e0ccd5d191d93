"""What a measured time belongs to: the processor, the provider and how it is used."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import onnxruntime

from jstc.ort import Provider

__all__ = ["Setting"]

_TIMEOUT_SECONDS = 20


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
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return "gpu"
    return (done.stdout.strip().splitlines() or ["gpu"])[0]
