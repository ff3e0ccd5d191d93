"""What every exported graph must stand: onnx's checker, shape inference, and a run on real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from torch import Tensor

from jstc import files
from jstc.errors import StageError
from jstc.export.running import Runner, padded

__all__ = ["RUN_SIZES", "checked", "forget_origin", "require_runs", "save"]

RUN_SIZES = (1, 7)
"""Batch sizes that a file with a dynamic one must run."""


def checked(model: onnx.ModelProto, *, what: str = "exported graph") -> onnx.ModelProto:
    """`model` with the shape of every tensor. Raises `StageError` unless onnx finds it, `what`, valid."""
    del model.graph.value_info[:]  # a conversion may have left the shapes or types of another graph
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        # A line for every node that depends on the first one.
        raise StageError(f"the {what} is not valid ONNX: {str(error).splitlines()[0]}") from error
    return inferred


def save(model: onnx.ModelProto, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Check `model`, give it `metadata` and no other notes, and write it whole or not at all."""
    forget_origin(model)
    onnx.helper.set_model_props(model, dict(metadata))
    files.write_with(path, lambda temporary: onnx.save(checked(model), str(temporary)))


def forget_origin(model: onnx.ModelProto) -> None:
    """Delete what tools have noted: torch's exporter, say, where in the user's files a node came from."""
    graph = model.graph
    for items in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
        for item in items:
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
    graph.ClearField("metadata_props")
    model.ClearField("metadata_props")


def require_runs(path: Path, images: Tensor) -> None:
    """Run the file at batch 1 and 7, or at its fixed batch, on `images` [N, C, H, W], which may be fewer.

    Raises `StageError` when it does not run, or its answers are of another number.
    """
    runner = Runner(path)
    for size in RUN_SIZES if runner.batch is None else (runner.batch,):
        logits = runner.logits(padded(images, size))
        if len(logits) != size:
            raise StageError(f"{path.name} gave {len(logits)} rows of logits for {size} images")
