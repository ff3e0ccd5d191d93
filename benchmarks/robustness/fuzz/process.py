"""A call in a process of its own, with limits of time and memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

__all__ = ["in_process"]

_SECONDS = 60
_MEMORY = 6 * 2**30


def in_process(folder: Path, work: Callable[[], int], output: Path) -> tuple[int, str | None]:
    """Exit code of `work` in a process of its own, and how the process ended if not by itself.

    It works in `folder`, prints to the file `output`, and has `_SECONDS` and `_MEMORY`.
    """
    child = os.fork()
    if child == 0:
        _become_child(folder, work, output)
    return _awaited(child, _SECONDS)


def _become_child(folder: Path, work: Callable[[], int], output: Path) -> None:
    code = 99
    try:
        os.chdir(folder)
        os.setsid()
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _awaited(child: int, seconds: float) -> tuple[int, str | None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return (code, None) if code >= 0 else (code, f"killed by {signal.Signals(-code).name}")
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1, f"no end after {seconds:g} seconds"
