"""The stages that emit the slim network and time what was exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jstc import files
from jstc.pipeline.context import StageContext
from jstc.pipeline.scoring import accuracy, images
from jstc.plan import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["bench", "slim"]

_FOLD_IMAGES = 64


def slim(context: StageContext) -> dict[str, Any]:
    """Emit the slim network, count it with fvcore, and score it on the test split."""
    from jstc import slim as emitter
    from jstc.pipeline import counting

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
    counting.require_equal("target", target, workspace.example_input(), channels.cost())
    counting.require_equal("slim", network, workspace.example_input(), channels.cost(plan))
    cost = channels.cost(plan)
    shares = channels.flops_share_of(plan)
    figures = {"flops": cost.flops, "params": cost.params, "flops_share": shares}
    return {**result, **figures, "accuracy": accuracy(context, network)}


def bench(context: StageContext) -> dict[str, Any]:
    """Time the exported file beside the target network's, interleaved."""
    from jstc import bench as timing
    from jstc.export import write_onnx

    recipe = context.recipe
    target = context.folder / "target.onnx"
    write_onnx(
        _trained_target(context),
        target,
        shape=context.workspace.spec.input_shape,
        opset=recipe.export.opset,
        metadata={},
    )
    slim = context.path / "export" / "model.onnx"
    # By their places in the run directory, as the export names its files.
    compared = {path.relative_to(context.path).as_posix(): path for path in (target, slim)}
    rows = timing.compare(compared, settings=recipe.bench, progress=context.progress)
    files.write_json(context.folder / "bench.json", {"rows": [row.to_dict() for row in rows]})
    files.write_json(context.folder / "environment.json", timing.environment())
    return {}


def _trained_target(context: StageContext) -> nn.Module:
    # Without a baseline the initial weights serve: the time does not depend on them.
    from jstc import models

    network = context.workspace.new_target()
    weights = context.path / "baseline" / "model.safetensors"
    if context.recipe.baseline and weights.exists():
        models.load_weights(network, weights)
    return network
