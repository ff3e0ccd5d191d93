"""The processes beside process 0: they do what it asks for, write nothing, and say only what it cannot."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from jstc.core import processes
from jstc.core.processes import interruptible
from jstc.core.progress import Silent
from jstc.errors import JstcError, StageError
from jstc.models import Consent
from jstc.recipe.schema import Recipe
from jstc.runs import evaluation, workers
from jstc.runs.stages import train
from jstc.runs.workspace import StageContext, Workspace

__all__ = ["follow"]

_STAGES = {"baseline": train.baseline, "search": train.search, "finetune": train.finetune}
_MADE_OF = {"model", "weights", "cifar", "dataset", "data", "seed", "device", "threads", "input", "channels"}
"""What decides the things that a workspace keeps."""
_ANSWER_SECONDS = 3.0


def follow(workspace: Workspace | None = None) -> int:
    """Do one task of process 0 after another, until it has no more; returns the exit code.

    That is 1 when process 0 has broken off, which then has said why. `workspace` has a network and data that
    are in memory already. Raises `JstcError` for what went wrong in this process alone.
    """
    with workers.watched(workers.leader_has_stopped):
        try:
            with interruptible():
                return _do_tasks(workspace)
        except KeyboardInterrupt:
            return 1


def _do_tasks(workspace: Workspace | None) -> int:
    try:
        while (task := workers.next_task())["kind"] != workers.END:
            workspace = _work(task, workspace)
    except Exception as error:
        if workers.leader_has_stopped(_ANSWER_SECONDS):
            return 1
        raise _named(error) from error
    _shut_down()
    return 0


def _shut_down() -> None:
    from jstc.train import collectives

    collectives.shut_down()


def _work(task: dict[str, Any], workspace: Workspace | None) -> Workspace | None:
    import torch

    from jstc.train import collectives, device

    where = device.device(task["device"]) if task["device"] == "cuda" else torch.device("cpu")
    collectives.start(where)  # first: from here on process 0 notices when this one ends
    with collectives.together():
        if task["kind"] == "eval":
            evaluation.take_part(task)
            return workspace
        workspace = _workspace(task, workspace)
        context = StageContext(workspace, Path(task["path"]), Path(task["folder"]), Silent())
        _STAGES[task["stage"]](context)
    return workspace


def _workspace(task: dict[str, Any], before: Workspace | None) -> Workspace:
    """The workspace of the task, with what the one `before` has made where that is the same."""
    recipe = Recipe.model_validate(task["recipe"])
    if before is None or _shared(before.recipe) != _shared(recipe):
        before = Workspace(recipe, Consent(**task["consent"]))
    workspace = before.with_recipe(recipe)
    workspace.path = Path(task["path"])
    if task["latency"] is not None:
        workspace.predict_latency(task["latency"])
    return workspace


def _shared(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", include=_MADE_OF)


def _named(error: Exception) -> Exception:
    """The same error with the process that it is of."""
    text = f"process {processes.rank()} of {processes.world()}, on {socket.gethostname()}: {error}"
    if not isinstance(error, JstcError):
        return StageError(f"{text} ({type(error).__name__})")
    error.args = (text,)
    return error
