"""The network as it was given, scored before anything else is done with it."""

from __future__ import annotations

import math
from typing import Any

from jstc.core import numbers
from jstc.export.scoring import wilson
from jstc.runs.outline import announce
from jstc.runs.stages.train import batches
from jstc.runs.workers import on_all_ranks
from jstc.runs.workspace import StageContext, Workspace
from jstc.train.device import Numerics, to_device
from jstc.train.loop import evaluate

__all__ = ["before_measuring", "given", "score_given"]


def given(context: StageContext) -> dict[str, Any]:
    """Score the given network on the test split, and say so; what was scored already is not scored again."""
    workspace = context.workspace
    if workspace.recipe.latency is None:  # else the budget is being measured
        announce(context)
    if workspace.given is None:
        workspace.given = _told(context, score_given(context))
    return workspace.given


@on_all_ranks
def score_given(context: StageContext) -> dict[str, Any]:
    """Accuracy and loss of the given network on the whole test split, in float32."""
    workspace, settings = context.workspace, context.recipe.train
    network = to_device(workspace.new_target(), settings, workspace.device)
    found = evaluate(network, batches(context), Numerics(channels_last=settings.channels_last))
    workspace.dataset.close()
    loss = found.loss if math.isfinite(found.loss) else None
    return {"accuracy": found.accuracy, "loss": loss, "test_images": found.images}


def before_measuring(workspace: Workspace) -> None:
    """Score the given network before the run directory is there, by this process alone.

    For what takes minutes and still may refuse the run: measuring latencies. The stage then has the figures.
    """
    assert workspace.path is not None
    given(StageContext(workspace, workspace.path, workspace.path / "given", workspace.progress))


def _told(context: StageContext, figures: dict[str, Any]) -> dict[str, Any]:
    accuracy, images = figures["accuracy"], figures["test_images"]
    low, high = wilson(round(accuracy * images), images)
    context.progress.message(
        f"given network: {numbers.percent(accuracy)} ±{100 * (high - low) / 2:.2g} of {images:,} images "
        f"(test), loss {'not finite' if figures['loss'] is None else format(figures['loss'], '.4g')}"
    )
    return figures
