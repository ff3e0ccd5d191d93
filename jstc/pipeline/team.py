"""Several processes at one run. Process 0 goes through its stages; where one trains, all take part.

What process 0 wants done stands in torchrun's store, task after task, because it may take an hour between two
of them to export and to measure. The others wait for the next one (see `following`). Nothing here does
anything for a process alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from jstc import ranks
from jstc.errors import StageError
from jstc.pipeline import departure
from jstc.pipeline.context import StageContext

if TYPE_CHECKING:
    import torch

__all__ = ["END", "everywhere", "leader_has_stopped", "leading", "next_task", "shared"]

END = "end"
_POLL_SECONDS = 0.1
_state = {"next": 0, "stopped": 0}

StageFunction = Callable[[StageContext], dict[str, Any]]


def everywhere(stage: StageFunction) -> StageFunction:
    """A stage in which all processes take part: each calls it, with the workspace of its own."""

    @wraps(stage)
    def run(context: StageContext) -> dict[str, Any]:
        if not ranks.leads():
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
    if not ranks.leads():
        yield
        return
    from jstc.train import distributed

    _announce({**task, "device": where.type})
    with departure.watched(lambda: False), _told_of_failure():
        distributed.start(where)
        with distributed.together():
            yield


@contextlib.contextmanager
def _told_of_failure() -> Iterator[None]:
    from jstc.train import distributed

    try:
        yield
    except BaseException as error:
        _state["stopped"] = 1
        with contextlib.suppress(Exception):
            distributed.store().set("stopped", b"1")
        if distributed.lost(error):
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
    if not ranks.leads():
        yield
        return
    with departure.heeding(unless=lambda: bool(_state["stopped"])):
        try:
            yield
        finally:
            _finish()


def _finish() -> None:
    from jstc.train import distributed

    with contextlib.suppress(Exception):  # where the store is gone, nobody is left to be told
        _announce({"kind": END})
    if not _state["stopped"]:  # where a process is lost, its group cannot be left in order
        distributed.shut_down()


def _announce(task: Mapping[str, Any]) -> None:
    from jstc.train import distributed

    distributed.store().set(f"task/{_state['next']}", json.dumps(task))
    _state["next"] += 1


def next_task() -> dict[str, Any]:
    """For the others: wait for the next task of process 0."""
    from jstc.train import distributed

    key = f"task/{_state['next']}"
    while not distributed.store().check([key]):
        time.sleep(_POLL_SECONDS)
    _state["next"] += 1
    task: dict[str, Any] = json.loads(distributed.store().get(key))
    return task


def leader_has_stopped(seconds: float = 0.0) -> bool:
    """For the others: whether process 0 has broken off its stage, or does so within some seconds."""
    from jstc.train import distributed

    deadline = time.monotonic() + seconds
    with contextlib.suppress(Exception):
        while not distributed.store().check(["stopped"]):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True
    return False
