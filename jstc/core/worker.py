"""Processes of `multiprocessing` that work for this one: they outlive neither its word nor itself.

A signal often goes to all processes of a group, a terminal or a service at once. The one that the user has
started saves what there is and ends the others; they go on until it does, or until it is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from jstc.core import signals

__all__ = ["end_all", "serve"]

_POLL_SECONDS = 1.0


def serve() -> None:
    """Take, in a process that was started in `signals.blocked`, its parent's signals alone from here on."""
    if not hasattr(signal, "pthread_sigmask"):
        return
    signal.set_wakeup_fd(-1)  # the parent's, in a fork
    for number in signals.ENDING:
        signal.signal(number, signal.SIG_IGN)
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
