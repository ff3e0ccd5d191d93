"""A signal to stop, granted where nothing is lost: a training looks for it after every step, and saves first.

Where nobody looks, a signal raises KeyboardInterrupt at once, as Python does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

__all__ = ["GRACE_SECONDS", "grant", "granting", "handle", "reached", "requested"]

GRACE_SECONDS = 10.0
"""So long a signal waits for the end of a step; who sends one often kills half a minute later."""


@dataclass
class _Request:
    depth: int = 0
    number: int | None = None
    process: int = 0
    deadline: threading.Timer | None = None


_request = _Request()


@contextlib.contextmanager
def granting() -> Iterator[None]:
    """Within the block a signal is only noted: the block asks `requested` after every step.

    A second one, or one that is not granted within `GRACE_SECONDS`, raises KeyboardInterrupt; so does the
    end of the block when a request is still open.
    """
    _request.depth, _request.process = _request.depth + 1, os.getpid()
    try:
        yield
    except RuntimeError:
        if _request.number is None:
            raise
        # Ctrl-C also went to processes that we work with, and what they do without is no news.
    finally:
        _request.depth -= 1
        reached()
        open_, _request.number = _request.number is not None, None
    if open_:
        grant()


def requested() -> bool:
    """Whether a signal waits to be granted."""
    return _request.number is not None


def reached() -> None:
    """The end of a step is reached: what remains is to save, however long that takes."""
    if _request.deadline is not None:
        _request.deadline.cancel()
        _request.deadline = None


def grant() -> NoReturn:
    """Stop, now that everything is saved."""
    reached()
    _request.number = None
    raise KeyboardInterrupt


def handle(number: int, _frame: FrameType | None) -> None:
    """The handler of SIGINT and SIGTERM."""
    if _request.depth and os.getpid() != _request.process:
        return  # a worker that was forked: the process that it works for will stop it
    if not _request.depth or _request.number is not None:
        grant()
    _request.number = number
    _request.deadline = threading.Timer(GRACE_SECONDS, _repeat, [number])
    _request.deadline.daemon = True
    _request.deadline.start()


def _repeat(number: int) -> None:
    # To the main thread itself, so that it also leaves a system call that it waits in.
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
