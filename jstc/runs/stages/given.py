"""The network as it was given, scored before anything else is done with it."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from torch import nn

from jstc import finetune
from jstc.core import files
from jstc.report import accuracies as told
from jstc.runs import mismatch
from jstc.runs.mismatch import Scored
from jstc.runs.outline import announce
from jstc.runs.stages.train import tested
from jstc.runs.workers import on_all_ranks
from jstc.runs.workspace import HEAD, StageContext, Workspace
from jstc.train import head
from jstc.train.device import Numerics, to_device

__all__ = ["before_measuring", "given", "score_given", "train_head"]


def given(context: StageContext, *, keep: bool = True) -> dict[str, Any]:
    """Score the given network, say so, and warn where it seems to expect something else; once.

    `keep`: the score is written at once, for a run that is broken off and goes on.
    """
    workspace = context.workspace
    if keep:  # else the budget is being measured
        announce(context)
    if workspace.given is None:
        said = _require_head(context) if keep else ()
        figures = _kept(context) if keep else score_given(context)
        for text in (*figures.get("notes", ()), told.line(figures)):
            if text not in said:
                context.progress.message(text)
        figures["mismatch"] = _mismatch(context, figures)
        for text in told.framed(told.warnings(figures)):
            context.progress.message(text)
        workspace.dataset.close()
        workspace.given = figures
    return workspace.given


def _kept(context: StageContext) -> dict[str, Any]:
    """The figures on the test split, as far as they are known already: scoring a large one takes long."""
    path = context.folder / "result.json"
    if path.is_file():
        with contextlib.suppress(ValueError, OSError):  # damaged: made anew
            found: dict[str, Any] = files.read_json(path)
            if _are_figures(found):
                return found
    figures = score_given(context)
    files.write_json(path, figures)
    return figures


def _are_figures(found: object) -> bool:
    """Whether what was read is what `score_given` gives; the stage was not done, so nobody vouches for it."""
    if not isinstance(found, dict) or not found.keys() >= {"accuracy", "loss", "chance", "test_images"}:
        return False
    shares = found["accuracy"], found["chance"]
    loss, images, notes = found["loss"], found["test_images"], found.get("notes", [])
    return (
        all(type(share) in (int, float) and 0 <= share <= 1 for share in shares)
        and (loss is None or type(loss) in (int, float))
        and type(images) is int
        and images > 0
        and isinstance(notes, list)
        and all(type(note) is str for note in notes)
    )


def _require_head(context: StageContext) -> tuple[str, ...]:
    """Have the classifier trained, where the weights have left a new one, and it is to be.

    Returns what was said of the weights before.
    """
    if not context.recipe.train.head_epochs or (context.path / HEAD).is_file():
        return ()
    fitted = context.workspace.with_weights()[1]
    if not fitted.new_head:
        return ()
    for note in fitted.notes:
        context.progress.message(note)
    train_head(context)
    return fitted.notes


@on_all_ranks
@tested
def train_head(context: StageContext) -> dict[str, Any]:
    """Train the new classifier alone, on the network as the weights have left it."""
    workspace = context.workspace
    network, fitted = workspace.with_weights()
    head.train(
        to_device(network, context.recipe.train, workspace.device),
        fitted.new_head,
        workspace.dataset,
        recipe=context.recipe,
        path=context.path / HEAD,
        progress=context.progress,
    )
    workspace.dataset.close()
    return {}


@on_all_ranks
@tested
def score_given(context: StageContext) -> dict[str, Any]:
    """Figures of the given network on the whole test split, in float32."""
    workspace = context.workspace
    figures = finetune.score(
        _network(context), workspace.dataset, recipe=context.recipe, progress=context.progress, stage="given"
    )
    workspace.dataset.close()
    loss = figures["loss"] if math.isfinite(figures["loss"]) else None
    return figures | {"loss": loss, "notes": [*workspace.notes, *head.told(context.path / HEAD)]}


def before_measuring(workspace: Workspace) -> None:
    """Score the given network before the run directory is there; all processes take part.

    For what takes minutes and still may refuse the run: measuring latencies. The stage then has the figures.
    """
    assert workspace.path is not None
    context = StageContext(workspace, workspace.path, workspace.path / "given", workspace.progress)
    given(context, keep=False)  # nothing is created yet


def _network(context: StageContext) -> nn.Module:
    workspace = context.workspace
    return to_device(workspace.new_target(), context.recipe.train, workspace.device)


def _mismatch(context: StageContext, figures: dict[str, Any]) -> dict[str, Any] | None:
    """What the network seems to expect otherwise, found by this process alone."""
    found = mismatch.find(
        _network(context),
        context.workspace.dataset,
        Scored(figures["accuracy"], figures["chance"], figures["test_images"]),
        batch_size=context.recipe.train.batch_size,
        numerics=Numerics(channels_last=context.recipe.train.channels_last),
        progress=context.progress,
    )
    return None if found is None else found.to_dict()
