"""Several processes at one run: process 0 goes through its stages; where one trains, all take part.

What process 0 wants done stands in torchrun's store, task after task, because it may take an hour between two
of them to export and to measure. The others wait for the next one, do it, write nothing, and say only what
process 0 cannot. A process alone passes through all of this as if it were not there.

In the order of a run: process 0 is `as_rank_zero`; a stage that is `on_all_ranks` is told to the others by
`broadcast_task`, who do it in their `worker_loop`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter

from jstc.core import processes, worker
from jstc.core.progress import Silent
from jstc.core.signals import interruptible
from jstc.core.worker import exit_after_signal
from jstc.data.base import GIVEN
from jstc.errors import JstcError, StageError
from jstc.models import Permissions
from jstc.recipe.schema import InputSettings, Recipe
from jstc.runs.workspace import StageContext, Workspace
from jstc.train import collectives, device, process_group

__all__ = [
    "EvalTask",
    "StageFunction",
    "StageTask",
    "as_rank_zero",
    "broadcast_task",
    "next_task",
    "on_all_ranks",
    "one_of_several",
    "rank_zero_has_stopped",
    "worker_loop",
]

StageFunction = Callable[[StageContext], dict[str, Any]]

_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 3.0
_MADE_OF = {"model", "weights", "cifar", "dataset", "data", "seed", "device", "threads", "input", "channels"}
"""What decides the things that a workspace keeps."""


# -- what is said -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageTask:
    """A stage that all processes train in, with what each makes its own workspace of.

    `device` is the type that gradients travel between, `latency` the document of a model that predicts it.
    """

    stage: str
    recipe: Recipe
    path: Path
    folder: Path
    permissions: Permissions
    device: str
    latency: dict[str, Any] | None = None
    kind: Literal["stage"] = "stage"


@dataclass(frozen=True)
class EvalTask:
    """An ONNX file to be evaluated on a test split, of which each process takes its part."""

    file: Path
    dataset: str
    data: Path | None
    settings: InputSettings
    provider: Literal["cpu", "cuda", "tensorrt"]
    threads: int
    limit: int | None
    device: str = "cpu"
    kind: Literal["eval"] = "eval"


Task = StageTask | EvalTask
_TASK: TypeAdapter[Task] = TypeAdapter(Task)


@dataclass
class _Conversation:
    """Number of the next task, and whether process 0 has broken off."""

    next: int = 0
    stopped: bool = False


_conversation = _Conversation()


def _store() -> Any:
    return process_group.store()


def _announce(task: Task | None) -> None:
    """Write the next task, or that there is none, into the store."""
    document = None if task is None else _TASK.dump_python(task, mode="json")
    _store().set(f"task/{_conversation.next}", json.dumps(document))
    _conversation.next += 1


def next_task() -> Task | None:
    """Wait, as one of the others, for the next task of process 0; None when there is no more."""
    key = f"task/{_conversation.next}"
    while not _store().check([key]):
        time.sleep(_POLL_SECONDS)
    _conversation.next += 1
    document = json.loads(_store().get(key))
    return None if document is None else _TASK.validate_python(document)


def rank_zero_has_stopped(seconds: float = 0.0) -> bool:
    """Whether, for one of the others, process 0 has broken off its stage, or does so within some seconds."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(Exception):
        while not _store().check(["stopped"]):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True
    return False


# -- process 0 ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_of_several() -> Iterator[None]:
    """A whole command, in one of several processes; where it fails the process ends without cleaning up.

    That would wait, for many seconds, for connections to a process that is gone.
    """
    try:
        with as_rank_zero():
            yield
    except (SystemExit, KeyboardInterrupt) as done:
        code = getattr(done, "code", 130)
        if code:
            sys.stdout.flush()
            sys.stderr.flush()
            worker.end_all()
            os._exit(code if isinstance(code, int) else 1)
        raise


@contextlib.contextmanager
def as_rank_zero() -> Iterator[None]:
    """A block around all that process 0 does: in the end the others are told that there is no more.

    torchrun sends SIGTERM when another process ends: what this one then has to say, it still says.
    """
    if not processes.leads():
        yield
        return
    with interruptible(unless=lambda: _conversation.stopped):
        try:
            yield
        finally:
            _finish()


def _finish() -> None:
    with contextlib.suppress(Exception):  # where the store is gone, nobody is left to be told
        _announce(None)
    if not _conversation.stopped:  # where a process is lost, its group cannot be left in order
        process_group.leave()


def on_all_ranks(stage: StageFunction) -> StageFunction:
    """A stage in which all processes take part: each calls it, with the workspace of its own."""

    @wraps(stage)
    def run(context: StageContext) -> dict[str, Any]:
        if not processes.leads():
            return stage(context)
        with broadcast_task(_stage_task(stage.__name__, context)):
            return stage(context)

    return run


def _stage_task(stage: str, context: StageContext) -> StageTask:
    # Before the search it is measured, here alone, and needed by nobody after it.
    latency = context.workspace.latency if stage == "search" else None
    return StageTask(
        stage,
        context.recipe,
        context.path,
        context.folder,
        context.workspace.permissions,
        context.workspace.device.type,
        None if latency is None else latency.model.to_dict(),
    )


@contextlib.contextmanager
def broadcast_task(task: Task) -> Iterator[None]:
    """A block in which the others do `task` while process 0 works at its own part of it in the block.

    Raises `StageError` when one of them is lost.
    """
    if not processes.leads():
        yield
        return
    _announce(task)
    with exit_after_signal(lambda: False), _failure_is_told():
        process_group.join(torch.device(task.device))
        with collectives.together():
            yield


@contextlib.contextmanager
def _failure_is_told() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _conversation.stopped = True
        with contextlib.suppress(Exception):
            _store().set("stopped", b"1")
        if process_group.is_lost(error):
            raise StageError(
                "another process of this run has ended or cannot be reached; what was finished is saved, and "
                "the same command continues"
            ) from error
        raise


# -- the others ---------------------------------------------------------------------------------------------


def worker_loop(
    stages: Mapping[str, StageFunction],
    evaluate: Callable[[EvalTask], None],
    workspace: Workspace | None = None,
) -> int:
    """Do one task of process 0 after another, until it has no more; returns the exit code.

    That is 1 when process 0 has broken off, which then has said why. `stages` are found by their names, and
    `workspace` has a network and data that are in memory already. Raises `JstcError` for what went wrong in
    this process alone.
    """
    with exit_after_signal(rank_zero_has_stopped):
        try:
            with interruptible():
                return _do_tasks(stages, evaluate, workspace)
        except KeyboardInterrupt:
            return 1


def _do_tasks(
    stages: Mapping[str, StageFunction], evaluate: Callable[[EvalTask], None], workspace: Workspace | None
) -> int:
    try:
        while (task := next_task()) is not None:
            # First: from here on process 0 notices when this one ends.
            process_group.join(device.device(task.device))
            with collectives.together():
                if isinstance(task, EvalTask):
                    evaluate(task)
                    continue
                workspace = _workspace_for(task, workspace)
                stages[task.stage](StageContext(workspace, task.path, task.folder, Silent()))
    except Exception as error:
        if rank_zero_has_stopped(_ANSWER_SECONDS):
            return 1
        raise _with_rank(error) from error
    process_group.leave()
    return 0


def _workspace_for(task: StageTask, before: Workspace | None) -> Workspace:
    """The workspace of the task, with what the one `before` has made where that is the same."""
    if before is None or not (task.recipe.dataset == GIVEN or _alike(before.recipe, task.recipe)):
        before = Workspace(task.recipe, task.permissions)
    workspace = before.with_recipe(task.recipe)
    workspace.path = task.path
    if task.latency is not None:
        workspace.predict_latency(task.latency)
    return workspace


def _alike(one: Recipe, other: Recipe) -> bool:
    return one.model_dump(mode="json", include=_MADE_OF) == other.model_dump(mode="json", include=_MADE_OF)


def _with_rank(error: Exception) -> Exception:
    """The error with the number and the host of the process that it is of."""
    text = f"process {processes.rank()} of {processes.world()}, on {socket.gethostname()}: {error}"
    if not isinstance(error, JstcError):
        return StageError(f"{text} ({type(error).__name__})")
    error.args = (text,)
    error.problem = text
    return error
