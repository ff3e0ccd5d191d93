"""Peak memory of one file at one batch size, in a process of its own.

Timed sessions share a process, whose memory says nothing about any one of them. So a fresh process imports
onnxruntime, and forks for each file: the child opens it and runs it three times. Counted is, above what the
child had before it opened the file,

- on the CPU: the peak of its resident memory (`VmHWM` of Linux), the opening included: weights as stored and
  as packed for the machine, buffers between layers, and whatever onnxruntime holds besides;
- on CUDA and TensorRT: the growth of the device's used memory (`cuMemGetInfo`), which onnxruntime does not
  give back between runs. What other processes take on the device meanwhile is counted too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jstc.ort.sessions import Provider

__all__ = ["PeakMemory", "Task", "missing", "peak_memory"]

_SECONDS_PER_TASK = 120
_WORKER = "jstc.ort.memory_worker"


@dataclass(frozen=True)
class Task:
    """What to run."""

    path: str
    provider: Provider
    batch: int
    threads: int


@dataclass(frozen=True)
class PeakMemory:
    """Megabytes (10^6 bytes), or the reason why they are not known."""

    mb: float | None
    reason: str | None = None


def missing() -> str | None:
    """Why peak memory cannot be had on this system, or None."""
    if not hasattr(os, "fork") or not Path("/proc/self/status").is_file():
        return "peak memory of a process is read from /proc, which only Linux has"
    return None


def peak_memory(tasks: Sequence[Task]) -> list[PeakMemory]:
    """One answer for each task, in their order."""
    reason = missing()
    if reason is None:
        try:
            return _asked(tasks)
        except subprocess.TimeoutExpired:
            reason = "the process that measures it took too long"
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            reason = f"the process that measures it failed: {error}"
    return [PeakMemory(None, reason)] * len(tasks)


def _asked(tasks: Sequence[Task]) -> list[PeakMemory]:
    done = subprocess.run(
        [sys.executable, "-m", _WORKER],
        input=json.dumps([asdict(task) for task in tasks]),
        capture_output=True,
        text=True,
        check=True,
        timeout=_SECONDS_PER_TASK * max(1, len(tasks)),
        # One thread: a process is forked safely only while it has no others.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    return [PeakMemory(**answer) for answer in json.loads(done.stdout)]
