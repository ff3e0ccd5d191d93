"""The stage that emits the slim network."""

from __future__ import annotations

from typing import Any

from jstc import slim as emitter
from jstc.runs.stages import train
from jstc.runs.workspace import StageContext

__all__ = ["slim"]

_FOLD_IMAGES = 64


def slim(context: StageContext) -> dict[str, Any]:
    """Emit the slim network, count it with fvcore, and score it on the test split."""
    workspace = context.workspace
    target, plan, channels = workspace.new_target(), context.plan, workspace.channels
    result = emitter.emit(
        target,
        channels,
        workspace.spec,
        plan=plan,
        source=context.path / "finetune",
        directory=context.folder,
        images=train.images(context, _FOLD_IMAGES),
    )
    network = emitter.load(context.folder, target=target, plan=plan)
    train.require_equal("target", target, workspace.example_input(), channels.cost())
    train.require_equal("slim", network, workspace.example_input(), channels.cost(plan))
    cost = channels.cost(plan)
    shares = channels.flops_share_of(plan)
    figures = {"flops": cost.flops, "params": cost.params, "flops_share": shares}
    return {**result, **figures, "accuracy": train.accuracy(context, network)}
