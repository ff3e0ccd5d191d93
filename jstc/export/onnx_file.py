"""A trained network as one ONNX file with a dynamic batch size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch
from torch import nn

from jstc import files
from jstc.errors import StageError
from jstc.export.network import reference

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "write_onnx"]

INPUT_NAME = "images"
OUTPUT_NAME = "logits"

_BATCH = "batch"
_MAX_BYTES = 2**31 - 1
_CHATTY = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


def write_onnx(
    network: nn.Module,
    path: Path,
    *,
    shape: tuple[int, int, int],
    opset: int,
    metadata: Mapping[str, str],
) -> None:
    """Write `network` to `path`: input `images` float32 [batch, C, H, W], output `logits` [batch, classes].

    `shape` is [C, H, W]. A network with several outputs gives its first. The network itself is left as it is.
    The file is checked by onnx, shapes included, and written whole or not at all.
    Raises `StageError` when torch cannot export the network, or one file cannot hold it.
    """
    duplicate, num_classes = reference(network, shape)
    size = sum(tensor.nbytes for tensor in duplicate.state_dict().values())
    if size > _MAX_BYTES:
        raise StageError(f"the network has {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB at most")
    model = _exported(duplicate, shape, opset)
    _check_interface(model, opset, num_classes)
    _forget_origin(model)
    onnx.helper.set_model_props(model, dict(metadata))
    files.write_with(path, lambda temporary: onnx.save(_checked(model), str(temporary)))


def _exported(network: nn.Module, shape: tuple[int, int, int], opset: int) -> onnx.ModelProto:
    with _quiet() as said, torch.autocast("cpu", enabled=False):
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(2, *shape),),  # the exporter would take a batch of 1 for a constant
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim(_BATCH)},),
                verbose=False,
            )
        except Exception as error:
            raise StageError(_refusal(error, said.getvalue())) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _refusal(error: Exception, said: str) -> str:
    # The exporter wraps the reason in its own errors, each pages long.
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in (str(error) or said).splitlines() if line.strip()]
    reason = lines[0] if lines else "it gives no reason"
    return (
        f"torch.onnx could not export the network: {type(error).__name__}: {reason}; "
        "the forward must work for any batch size and must not branch on the values of tensors"
    )


def _check_interface(model: onnx.ModelProto, opset: int, num_classes: int) -> None:
    got = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if got != opset:  # the exporter only warns when it cannot convert
        raise StageError(f"opset {opset} was asked for, but torch.onnx can write only opset {got} here")
    first, last = (item.type.tensor_type.shape.dim for item in (model.graph.input[0], model.graph.output[0]))
    if not first[0].dim_param or last[0].dim_param != first[0].dim_param:
        raise StageError("the exported graph has a fixed batch size: the forward uses a constant for it")
    if last[1].dim_value != num_classes:
        raise StageError(f"the exported graph gives {last[1].dim_value} classes, the network {num_classes}")


def _forget_origin(model: onnx.ModelProto) -> None:
    # The exporter notes on every node where in the user's files it came from, paths included.
    graph = model.graph
    for items in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
        for item in items:
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
    graph.ClearField("metadata_props")


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"the exported graph is not valid ONNX: {error}") from error
    return inferred


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep what the exporter prints, logs and warns from the user; what it printed is yielded."""
    said = io.StringIO()
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
