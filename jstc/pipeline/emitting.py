"""The stages after the training: slim, export, bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc import files
from jstc.pipeline import model_card
from jstc.pipeline.context import StageContext
from jstc.pipeline.scoring import accuracy, batches, images
from jstc.plan import Plan

if TYPE_CHECKING:
    from torch import nn

    from jstc.export import Parity

__all__ = ["bench", "export", "slim"]

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


def export(context: StageContext) -> dict[str, Any]:
    """Write the slim network as ONNX, verify it, and describe it."""
    from jstc import export as exporting

    workspace = context.workspace
    path, metadata = context.folder / "model.onnx", _metadata(context)
    found = _verified_file(context, path, exporting.encode_metadata(metadata))
    labels = workspace.info.labels
    entry = {
        "file": "export/model.onnx",
        "precision": "fp32",
        "accuracy": exporting.accuracy(path, batches(context), num_classes=len(labels)),
        "max_abs_diff": found.max_abs_diff,
        "top1_agreement": found.top1_agreement,
        "bytes": path.stat().st_size,
    }
    model_card.describe(context, metadata=metadata, entries=[entry])
    return {"files": [entry]}


def _verified_file(context: StageContext, path: Path, metadata: dict[str, str]) -> Parity:
    from jstc import export as exporting

    settings, workspace = context.recipe.export, context.workspace
    network = workspace.load_slim(context.path / "slim")
    shape = workspace.spec.input_shape
    exporting.write_onnx(network, path, shape=shape, opset=settings.opset, metadata=metadata)
    try:
        found = exporting.parity(network, path, images(context, settings.parity_images))
        exporting.require(found, max_abs_diff=settings.max_abs_diff, file=path.name)
    except BaseException:
        path.unlink(missing_ok=True)  # a file that failed must not be taken for one that passed
        raise
    return found


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


def _metadata(context: StageContext) -> dict[str, Any]:
    """What the exported file tells about itself; see `jstc.export.encode_metadata`."""
    import jstc

    slim = files.read_json(context.path / "slim" / "result.json")
    info = context.workspace.info
    return {
        "labels": list(info.labels),
        "input_size": list(context.workspace.spec.input_shape),
        "mean": list(info.mean),
        "std": list(info.std),
        "resize_side": info.resize_side,
        "flops": slim["flops"],
        "params": slim["params"],
        "accuracy": slim["accuracy"],
        "plan_hash": Plan.load(context.path / "slim" / "plan.json").hash,
        "model": context.recipe.model,
        "dataset": context.recipe.dataset,
        "jstc_version": jstc.__version__,
    }
