"""Several processes at one run. Process 0 goes through its stages; where one trains, all take part.

What process 0 wants done stands in torchrun's store, task after task, because it may take an hour between two
of them to export and to measure. The others wait for the next one (see `following`). Nothing here does
anything for a process alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from types import FrameType
from typing import TYPE_CHECKING, Any

from jstc.core import processes
from jstc.errors import StageError
from jstc.runs.workspace import StageContext

if TYPE_CHECKING:
    import torch

__all__ = [
    "END",
    "GRACE_SECONDS",
    "everywhere",
    "heeding",
    "leader_has_stopped",
    "leading",
    "next_task",
    "shared",
    "watched",
]

# How a process leaves that may be stuck in an exchange with one that is gone.
#
# torchrun sends SIGTERM to the processes that are left. Python acts on a signal only between two
# instructions of its own, which never comes while the process waits in a library for an answer. A thread
# sees the signal at once, and ends the process when it has not ended by itself after some seconds.

GRACE_SECONDS = 20.0
"""torchrun gives 30 before it kills."""
_DEPARTURE_POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def watched(may_go: Callable[[], bool]) -> Iterator[None]:
    """A block whose process ends `GRACE_SECONDS` after SIGTERM or SIGINT, or as soon as `may_go` after it."""
    if threading.current_thread() is not threading.main_thread():  # signals are that one's alone
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, may_go), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _watch(reading: int, may_go: Callable[[], bool]) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while number := pipe.read(1):  # none when the block is over
            if number[0] in _SIGNALS:
                _end(may_go)


def _end(may_go: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and not may_go():
        time.sleep(_DEPARTURE_POLL_SECONDS)
    os._exit(1)


@contextlib.contextmanager
def heeding(*, unless: Callable[[], bool]) -> Iterator[None]:
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


END = "end"
_POLL_SECONDS = 0.1
_state = {"next": 0, "stopped": 0}

StageFunction = Callable[[StageContext], dict[str, Any]]


def everywhere(stage: StageFunction) -> StageFunction:
    """A stage in which all processes take part: each calls it, with the workspace of its own."""

    @wraps(stage)
    def run(context: StageContext) -> dict[str, Any]:
        if not processes.leads():
            return stage(context)
        with shared(_task(stage.__name__, context), context.workspace.device):
            return stage(context)

    return run


def _task(stage: str, context: StageContext) -> dict[str, Any]:
    # Before the search it is measured, here alone, and needed by nobody after it.
    latency = context.workspace.latency if stage == "search" else None
    return {
        "kind": "stage",
        "stage": stage,
        "recipe": context.recipe.model_dump(mode="json"),
        "path": str(context.path),
        "folder": str(context.folder),
        "latency": None if latency is None else latency.model.to_dict(),
        "consent": dataclasses.asdict(context.workspace.consent),
    }


@contextlib.contextmanager
def shared(task: Mapping[str, Any], where: torch.device) -> Iterator[None]:
    """For process 0: the others do `task` while it works at its part of it in the block, on `where`.

    Raises `StageError` when one of them is lost.
    """
    if not processes.leads():
        yield
        return
    from jstc.train import collectives

    _announce({**task, "device": where.type})
    with watched(lambda: False), _told_of_failure():
        collectives.start(where)
        with collectives.together():
            yield


@contextlib.contextmanager
def _told_of_failure() -> Iterator[None]:
    from jstc.train import collectives

    try:
        yield
    except BaseException as error:
        _state["stopped"] = 1
        with contextlib.suppress(Exception):
            collectives.store().set("stopped", b"1")
        if collectives.lost(error):
            raise StageError(
                "another process of this run has ended or cannot be reached; what was finished is saved, and "
                "the same command continues"
            ) from error
        raise


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """For process 0, around all that it does: in the end the others are told that there is no more.

    torchrun sends SIGTERM when another process ends: what this one then has to say, it still says.
    """
    if not processes.leads():
        yield
        return
    with heeding(unless=lambda: bool(_state["stopped"])):
        try:
            yield
        finally:
            _finish()


def _finish() -> None:
    from jstc.train import collectives

    with contextlib.suppress(Exception):  # where the store is gone, nobody is left to be told
        _announce({"kind": END})
    if not _state["stopped"]:  # where a process is lost, its group cannot be left in order
        collectives.shut_down()


def _announce(task: Mapping[str, Any]) -> None:
    from jstc.train import collectives

    collectives.store().set(f"task/{_state['next']}", json.dumps(task))
    _state["next"] += 1


def next_task() -> dict[str, Any]:
    """For the others: wait for the next task of process 0."""
    from jstc.train import collectives

    key = f"task/{_state['next']}"
    while not collectives.store().check([key]):
        time.sleep(_POLL_SECONDS)
    _state["next"] += 1
    task: dict[str, Any] = json.loads(collectives.store().get(key))
    return task


def leader_has_stopped(seconds: float = 0.0) -> bool:
    """For the others: whether process 0 has broken off its stage, or does so within some seconds."""
    from jstc.train import collectives

    deadline = time.monotonic() + seconds
    with contextlib.suppress(Exception):
        while not collectives.store().check(["stopped"]):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True
    return False
