"""Signals that ask this process to end: acted on once, where nothing is lost by it. No torch here.

Ctrl-C (SIGINT), SIGTERM and a terminal that closes (SIGHUP) end a command as KeyboardInterrupt. It is
`interruptible` from its first line to its last. A training within it has signals deferred: it looks after
every step whether a stop is requested, tells when it begins to save, and stops. The command line loads this
before everything else, so it loads little itself: until then a signal ends Python without a word.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from jstc.core import processes
from jstc.errors import WorkerError

__all__ = [
    "ENDING",
    "GRACE_SECONDS",
    "SAME_SECONDS",
    "begin_saving",
    "final",
    "interruptible",
    "require_none_lost",
    "signals_deferred",
    "stop",
    "stop_requested",
    "to_the_end",
    "was_interrupted",
]

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Those of them that this system has; SIGQUIT ends a process as it always does, with a core dump."""

GRACE_SECONDS = 10.0
"""So long a signal waits for the end of a step; who sends one often kills half a minute later."""
SAME_SECONDS = 1.0
"""One that comes so soon after another is the same: `timeout` signals its child and then the whole group,
torchrun passes on what its processes have got already, and of a closing terminal several tell."""
_TORCHRUN_SECONDS = 30.0
_POLL_SECONDS = 0.05


class _Request:
    """A signal that has come, and how it is to be taken: by which process, in which blocks, when at last."""

    def __init__(self) -> None:
        self.process, self.blocks, self.depth = 0, 0, 0
        self.unless: list[Callable[[], bool]] = []
        self.code: int | None = None  # with which the process leaves at once, once it is about to
        self.clear()

    def clear(self) -> None:
        """None has come."""
        self.number: int | None = None  # of the signal that waits
        self.last, self.since = 0, -math.inf
        self.raised, self.repeated = False, False
        self.timer: threading.Timer | None = None
        self.deadline = 0.0


_request = _Request()


# A command, and a training in it.


@contextlib.contextmanager
def interruptible(*, unless: Callable[[], bool] | None = None) -> Iterator[None]:
    """Let the signals of `ENDING` raise KeyboardInterrupt in the block, in a training once it is saved.

    Not those that this process was told to ignore, as by `nohup`; none at all while `unless` says so.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    if not _request.blocks:
        _request.clear()
    _request.process, _request.blocks = os.getpid(), _request.blocks + 1
    if unless is not None:
        _request.unless.append(unless)
    numbers = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _handle) for number in numbers}
    unraisable, sys.unraisablehook = sys.unraisablehook, _without_interrupts(sys.unraisablehook)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)
        _request.blocks -= 1
        if not _request.blocks:
            begin_saving()  # nothing waits any more
        if unless is not None:
            _request.unless.remove(unless)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Only note a signal in the block, which asks `stop_requested` after every step.

    A second one, or one for which nothing is saved within `GRACE_SECONDS`, raises KeyboardInterrupt; so does
    the end of the block when a request is still open.
    """
    _request.depth += 1
    try:
        yield
    except (RuntimeError, WorkerError):
        if _request.number is None:
            raise
        # The signal also went to processes that we work with, and what they do without is no news.
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
    if _request.timer is not None:
        _request.timer.cancel()
        _request.timer = None


def stop() -> NoReturn:
    """Raise KeyboardInterrupt, now that everything is saved."""
    begin_saving()
    _request.number, _request.raised = None, True
    raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Whether a signal has raised KeyboardInterrupt in the `interruptible` block, or in the last one."""
    return _request.raised


def require_none_lost() -> None:
    """Raise KeyboardInterrupt when one still waits for that, or has before and a library has caught it."""
    if _request.raised or stop_requested():
        stop()


# A process that is there for one command.


def to_the_end() -> None:
    """Be `interruptible` from here to the end of the process."""
    _process.enter_context(interruptible())
    atexit.register(_last)  # as early as this, it comes last


def final(code: int) -> None:
    """The command is over: the process leaves with `code`, and a signal only makes it leave sooner."""
    _request.code = code


def _last() -> None:
    # Taking down Python and torch lasts up to seconds, first of all the handlers, so that a signal would give
    # the exit code of one killed to a command that has done all its work; and it complains on the way where
    # torch was in the middle of something.
    if _request.code is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is left to read it
                stream.flush()
        os._exit(_request.code)


_process = contextlib.ExitStack()


def _handle(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _request.process:
        _in_a_fork(number)
        return
    if any(deaf() for deaf in _request.unless):
        return
    if _request.code is not None:
        os._exit(_request.code)
    now, repeated = time.monotonic(), _request.repeated
    _request.repeated = False
    if repeated:
        # By ourselves. In a training until the deadline, and so long for an import as well.
        if _request.number is not None and now < _request.deadline and (_request.depth or _imports(frame)):
            _wait(number, _request.deadline - now if _request.depth else _POLL_SECONDS)
            return
        stop()
    if now - _request.since < _same_seconds():
        return
    first, _request.last, _request.since = _request.number is None, number, now
    if first and (_request.depth or _imports(frame)):
        _request.number, _request.deadline = number, now + GRACE_SECONDS
        _wait(number, GRACE_SECONDS if _request.depth else _POLL_SECONDS)
        return
    stop()


def _in_a_fork(number: int) -> None:
    """What another process does that has inherited the handler; those of `core.worker` have not."""
    if number == signal.SIGTERM:  # the word of whoever has started it
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _same_seconds() -> float:
    # torchrun passes a signal on whenever it gets to it, and kills by itself what does not end.
    return _TORCHRUN_SECONDS if processes.several() else SAME_SECONDS


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being loaded: libraries make other errors of what is raised there, or none."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _wait(number: int, seconds: float) -> None:
    _request.timer = threading.Timer(seconds, _repeat, [number])
    _request.timer.daemon = True
    _request.timer.start()


def _repeat(number: int) -> None:
    if _request.timer is not threading.current_thread():
        return
    # To the main thread itself, so that it also leaves a system call that it waits in.
    _request.repeated = True
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def _without_interrupts(before: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for what is raised where nobody can catch it: an interrupt is raised once more, elsewhere."""

    def hook(found: Any) -> None:
        if _request.raised and isinstance(found.exc_value, KeyboardInterrupt):
            _wait(_request.last, _POLL_SECONDS)
        else:
            before(found)

    return hook
