"""Processes of `multiprocessing` that work for this one: they outlive neither its word nor itself.

A signal often goes to all processes of a group, a terminal or a service at once. The one that the user has
started saves what there is and ends the others; they go on until it does, or until it is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from jstc.core import signals
from jstc.core.signals import ENDING

__all__ = ["STUCK_SECONDS", "await_own", "end_all", "exit_after_signal", "serve", "starting"]


_POLL_SECONDS = 1.0

_ON_ITS_WAY_SECONDS = 0.5


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """A block to start processes in that `serve`: signals to them wait until they do.

    A handler for the death of a child that it leaves behind is put away: torch's raises an error wherever
    this process is just then, in the middle of a step, say. Who waits for a child's answer finds out anyway.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    of_deaths = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
    try:
        yield
    finally:
        if of_deaths is not None and signal.getsignal(signal.SIGCHLD) is not of_deaths:
            signal.signal(signal.SIGCHLD, of_deaths)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def await_own(code: int | None) -> None:
    """Where a child has ended by one of these signals, wait a moment for the same one to come here.

    `code` is the child's exit code, below zero by the number of the signal.
    """
    if code is not None and -code in signals.ENDING and not signals.stop_requested():
        time.sleep(_ON_ITS_WAY_SECONDS)


def serve() -> None:
    """Take, in a process that was started in `starting`, its parent's signals alone from here on."""
    signal.set_wakeup_fd(-1)  # the parent's, in a fork
    for number in signals.ENDING:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "pthread_sigmask"):
        return
    # Only what is blocked can be waited for, with the name of its sender, and only what is not ignored.
    waits = hasattr(signal, "sigtimedwait")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if waits:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*signals.ENDING} - ({signal.SIGTERM} if waits else set()))
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent_pid: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # Its end shows in both, sooner in the one where processes are forked and in the other where they are not.
    while os.getppid() == parent_pid and parent.is_alive():
        if not hasattr(signal, "sigtimedwait"):
            parent.join(_POLL_SECONDS)
            continue
        found = signal.sigtimedwait({signal.SIGTERM}, _POLL_SECONDS)
        if found is not None and found.si_pid == parent.pid:
            os._exit(0)
    os._exit(1)


def end_all() -> None:
    """End all that work for this process, which leaves itself at once after that."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler complains of what we do on purpose
    for process in multiprocessing.active_children():
        process.kill()
        process.join(_POLL_SECONDS)


# How a process leaves that may be stuck in an exchange with one that is gone.
#
# torchrun sends SIGTERM to the processes that are left when one ends. Python acts on a signal only between
# two instructions of its own, which never comes while the process waits in a library for an answer. A
# thread sees the signal at once, and ends the process when it has not ended by itself after some seconds.


_STUCK_POLL_SECONDS = 0.1
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
    threading.Thread(target=_watch_for_signals, args=(reading, may_exit), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _watch_for_signals(reading: int, may_exit: Callable[[], bool]) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while number := pipe.read(1):  # none when the block is over
            if number[0] in ENDING:
                _exit(may_exit)


def _exit(may_exit: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STUCK_SECONDS
    while time.monotonic() < deadline and not may_exit():
        time.sleep(_STUCK_POLL_SECONDS)
    os._exit(1)
