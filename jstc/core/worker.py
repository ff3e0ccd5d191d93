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
from collections.abc import Iterator

from jstc.core import signals

__all__ = ["await_own", "end_all", "serve", "starting"]

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
