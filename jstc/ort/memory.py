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

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jstc.core import worker
from jstc.errors import JstcError
from jstc.ort import opened, sessions
from jstc.ort.sessions import Provider

__all__ = ["PeakMemory", "Task", "measured", "missing", "peak_memory"]

_SECONDS_PER_TASK = 120
_RUNS = 3  # the second plans its buffers anew, knowing the sizes of the first

Answer = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What to run; `sizes` are dynamic ones, by name."""

    path: str
    provider: Provider
    batch: int
    threads: int
    sizes: dict[str, int] = field(default_factory=dict)


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
            worker.await_own(getattr(error, "returncode", None))
            reason = f"the process that measures it failed: {error}"
    return [PeakMemory(None, reason)] * len(tasks)


def _asked(tasks: Sequence[Task]) -> list[PeakMemory]:
    done = subprocess.run(
        [sys.executable, "-m", "jstc.ort.memory"],
        input=json.dumps([asdict(task) for task in tasks]),
        capture_output=True,
        text=True,
        check=True,
        timeout=_SECONDS_PER_TASK * max(1, len(tasks)),
        # One thread: a process is forked safely only while it has no others.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    return [PeakMemory(**answer) for answer in json.loads(done.stdout)]


# The process that does it: this module as a program, tasks as JSON on stdin, answers as JSON on stdout.


def _main() -> None:
    """Measure every task in a fork of this process, which has imported onnxruntime and nothing else."""
    tasks = [Task(**task) for task in json.load(sys.stdin)]
    json.dump([_in_fork(task) for task in tasks], sys.stdout)


def _in_fork(task: Task) -> Answer:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as stream:
                json.dump(_answer(task), stream)
        finally:
            os._exit(0)  # not through the parent's clean-up
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not text:
        return {"mb": None, "reason": f"the process that ran it ended with status {status}"}
    answer: Answer = json.loads(text)
    return answer


def _answer(task: Task) -> Answer:
    try:
        return {"mb": measured(task) / 1e6, "reason": None}
    except Exception as error:  # of onnxruntime, CUDA or the system: a missing figure is no failure
        text = str(error) if isinstance(error, JstcError) else sessions.first_line(error)
        return {"mb": None, "reason": text}


def measured(task: Task) -> int:
    """Bytes that opening and running the file takes at its peak, in this process."""
    on_cpu = task.provider == "cpu"
    sessions.resolve(task.provider)  # loads the provider's libraries, which is not the file's doing
    before = _status("VmRSS") if on_cpu else _device_used()
    held = _run(task)
    after = _status("VmHWM") if on_cpu else _device_used()
    del held  # not before: the device gets its memory back
    return max(0, after - before)


def _run(task: Task) -> object:
    file = opened.open_file(
        "", Path(task.path), provider=task.provider, threads=task.threads, sizes=task.sizes
    )
    run = opened.prepare(file, task.batch)
    for _ in range(_RUNS):
        run()
    return run


def _status(key: str) -> int:
    """A figure of /proc/self/status, which are in kB; in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def _device_used() -> int:
    """Bytes in use on the first CUDA device, by any process."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _require(driver.cuInit(0))
    _require(driver.cuDeviceGet(ctypes.byref(device), 0))
    _require(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    _require(driver.cuCtxSetCurrent(context))
    _require(driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    return total.value - free.value


def _require(code: int) -> None:
    if code:
        raise OSError(f"the CUDA driver answered with error {code}")


if __name__ == "__main__":
    _main()
