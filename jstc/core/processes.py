"""This process: which of several it is, what it may use, how a signal ends it in order. No torch here.

A run may be several processes, numbered from 0, as torchrun starts them. Process 0 leads: it decides, writes
and speaks; the others follow. Ctrl-C and SIGTERM end each of them as KeyboardInterrupt: at once, or, in a
training, after the step at work and once it is saved, so that nothing is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

__all__ = [
    "GRACE_SECONDS",
    "STUCK_SECONDS",
    "begin_saving",
    "exit_after_signal",
    "follows",
    "interruptible",
    "leads",
    "local_rank",
    "local_world",
    "rank",
    "restarts",
    "several",
    "signals_deferred",
    "sigterm_interrupts",
    "stop",
    "stop_requested",
    "usable_cores",
    "world",
]

# Ranks, as torchrun tells them.


def several() -> bool:
    """Whether torchrun started this process as one of several.

    Its variables count only together with the one that no other program sets: a container or a notebook may
    well have a WORLD_SIZE of its own.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and _number("WORLD_SIZE", 1) > 1


def world() -> int:
    """Number of processes, on all machines together."""
    return _number("WORLD_SIZE", 1) if several() else 1


def rank() -> int:
    """Number of this process."""
    return _number("RANK", 0) if several() else 0


def local_world() -> int:
    """Number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1) if several() else 1


def local_rank() -> int:
    """Number of this process among those on this machine, which is the number of its GPU."""
    return _number("LOCAL_RANK", 0) if several() else 0


def leads() -> bool:
    """Whether this is process 0 of several."""
    return several() and rank() == 0


def follows() -> bool:
    """Whether this is one of several, and not process 0."""
    return rank() > 0


def usable_cores() -> int:
    """Cores that this process may use: containers and job schedulers often leave fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def restarts() -> int:
    """How often torchrun has started the processes anew (`--max-restarts`)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


# Signals: a command is `interruptible`; within it a training has them deferred, looks after every step
# whether a stop is requested, tells when it begins to save, and stops.

GRACE_SECONDS = 10.0
"""So long a signal waits for the end of a step; who sends one often kills half a minute later."""


@dataclass
class _Request:
    """A signal that waits: within how many blocks it may, of which process, and when it no longer does."""

    depth: int = 0
    number: int | None = None
    process: int = 0
    deadline: threading.Timer | None = None


_request = _Request()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise KeyboardInterrupt in the block, in a training once it is saved."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    # What a shell starts in the background is to ignore Ctrl-C.
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Only note a signal in the block, which asks `stop_requested` after every step.

    A second one, or one for which nothing is saved within `GRACE_SECONDS`, raises KeyboardInterrupt; so does
    the end of the block when a request is still open.
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
        begin_saving()
        still_open, _request.number = _request.number is not None, None
    if still_open:
        stop()


def stop_requested() -> bool:
    """Whether a signal waits."""
    return _request.number is not None


def begin_saving() -> None:
    """Take the deadline from a request: the step is over, and saving may last as long as it does."""
    if _request.deadline is not None:
        _request.deadline.cancel()
        _request.deadline = None


def stop() -> NoReturn:
    """Raise KeyboardInterrupt, now that everything is saved."""
    begin_saving()
    _request.number = None
    raise KeyboardInterrupt


def _handle(number: int, _frame: FrameType | None) -> None:
    if _request.depth and os.getpid() != _request.process:
        return  # a worker that was forked: the process that it works for will stop it
    if not _request.depth or _request.number is not None:
        stop()
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


# How a process leaves that may be stuck in an exchange with one that is gone.
#
# torchrun sends SIGTERM to the processes that are left when one ends. Python acts on a signal only between
# two instructions of its own, which never comes while the process waits in a library for an answer. A thread
# sees the signal at once, and ends the process when it has not ended by itself after some seconds.

STUCK_SECONDS = 20.0
"""torchrun gives 30 before it kills."""
_POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def exit_after_signal(may_exit: Callable[[], bool]) -> Iterator[None]:
    """A block whose process exits `STUCK_SECONDS` after SIGTERM or SIGINT, or once `may_exit` after it."""
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
            if number[0] in _SIGNALS:
                _exit(may_exit)


def _exit(may_exit: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STUCK_SECONDS
    while time.monotonic() < deadline and not may_exit():
        time.sleep(_POLL_SECONDS)
    os._exit(1)


@contextlib.contextmanager
def sigterm_interrupts(*, unless: Callable[[], bool]) -> Iterator[None]:
    """A block in which SIGTERM raises KeyboardInterrupt, and nothing once the process leaves by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if not unless():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
