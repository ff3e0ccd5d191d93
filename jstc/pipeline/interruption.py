"""Ctrl-C and SIGTERM end a run in the same orderly way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from jstc import stopping

__all__ = ["interruptible"]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM and SIGINT raise KeyboardInterrupt, in a training once it is saved."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    # What a shell starts in the background is to ignore Ctrl-C.
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stopping.handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
