"""The processor as the system tells of it: instruction sets, frequency, load, and a container's limits.

All of it is read from /proc and /sys of Linux; None stands for what cannot be found out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["cpu_limit", "flags", "frequency", "load_average", "memory_limit_gb"]

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
