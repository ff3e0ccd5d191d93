"""How a process leaves that may be stuck in an exchange with one that is gone.

torchrun sends SIGTERM to the processes that are left when one ends. Python acts on a signal only between two
instructions of its own, which never comes while the process waits in a library for an answer. A thread sees
the signal at once, and ends the process when it has not ended by itself after some seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from jstc.core.signals import ENDING

__all__ = ["STUCK_SECONDS", "exit_after_signal"]

_POLL_SECONDS = 0.1
STUCK_SECONDS = 20.0
"""torchrun gives 30 before it kills."""


@contextlib.contextmanager
def exit_after_signal(may_exit: Callable[[], bool]) -> Iterator[None]:
    """A block whose process exits `STUCK_SECONDS` after a signal, or once `may_exit` after it."""
    if threading.current_thread() is not threading.main_thread():  # signals are that one's alone
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, may_exit), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _watch(reading: int, may_exit: Callable[[], bool]) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while number := pipe.read(1):  # none when the block is over
            if number[0] in ENDING:
                _exit(may_exit)


def _exit(may_exit: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STUCK_SECONDS
    while time.monotonic() < deadline and not may_exit():
        time.sleep(_POLL_SECONDS)
    os._exit(1)
