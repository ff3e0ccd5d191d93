"""The stage that emits the slim network."""

from __future__ import annotations

from typing import Any

from jstc.plan import Plan
from jstc.runs.stages.train import accuracy, images
from jstc.runs.workspace import StageContext

__all__ = ["slim"]

_FOLD_IMAGES = 64


def slim(context: StageContext) -> dict[str, Any]:
    """Emit the slim network, count it with fvcore, and score it on the test split."""
    from jstc import slim as emitter
    from jstc.runs.stages import train

    workspace = context.workspace
    target = workspace.new_target()
    result = emitter.emit(
        target,
        workspace.channels,
        workspace.spec,
        source=context.path / "finetune",
        directory=context.folder,
        images=images(context, _FOLD_IMAGES),
    )
    network = workspace.load_slim(context.folder)
    channels, plan = workspace.channels, Plan.load(context.folder / "plan.json")
    train.require_equal("target", target, workspace.example_input(), channels.cost())
    train.require_equal("slim", network, workspace.example_input(), channels.cost(plan))
    cost = channels.cost(plan)
    shares = channels.flops_share_of(plan)
    figures = {"flops": cost.flops, "params": cost.params, "flops_share": shares}
    return {**result, **figures, "accuracy": accuracy(context, network)}
