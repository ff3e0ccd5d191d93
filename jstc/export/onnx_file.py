"""A trained network as one ONNX file, for any batch size or for one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import nn

from jstc.errors import StageError
from jstc.export.checking import save
from jstc.export.network import reference
from jstc.export.quiet import quiet

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "write_onnx"]

INPUT_NAME = "images"
OUTPUT_NAME = "logits"

_BATCH = "batch"
_MAX_BYTES = 2**31 - 1


def write_onnx(
    network: nn.Module,
    path: Path,
    *,
    shape: tuple[int, int, int],
    opset: int,
    metadata: Mapping[str, str],
    batch: int | None = None,
) -> None:
    """Write `network` to `path`: input `images` float32 [batch, C, H, W], output `logits` [batch, classes].

    `shape` is [C, H, W]; without `batch` the file takes any number of images. A network with several outputs
    gives its first. The network itself is left as it is.
    The file is checked by onnx, shapes included, and written whole or not at all.
    Raises `StageError` when torch cannot export the network, or one file cannot hold it.
    """
    duplicate, num_classes = reference(network, shape)
    size = sum(tensor.nbytes for tensor in duplicate.state_dict().values())
    if size > _MAX_BYTES:
        raise StageError(f"the network has {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB at most")
    model = _exported(duplicate, shape, opset, batch)
    _check_interface(model, opset, num_classes, batch)
    save(model, path, metadata=metadata)


def _exported(
    network: nn.Module, shape: tuple[int, int, int], opset: int, batch: int | None
) -> onnx.ModelProto:
    dynamic = ({0: torch.export.Dim(_BATCH)},) if batch is None else None
    with quiet() as said, torch.autocast("cpu", enabled=False):
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(batch or 2, *shape),),  # the exporter would take a batch of 1 for a constant
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=dynamic,
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


def _check_interface(model: onnx.ModelProto, opset: int, num_classes: int, batch: int | None) -> None:
    got = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if got != opset:  # the exporter only warns when it cannot convert
        raise StageError(f"opset {opset} was asked for, but torch.onnx can write only opset {got} here")
    first, last = (item.type.tensor_type.shape.dim for item in (model.graph.input[0], model.graph.output[0]))
    if batch is None and (not first[0].dim_param or last[0].dim_param != first[0].dim_param):
        raise StageError("the exported graph has a fixed batch size: the forward uses a constant for it")
    if batch is not None and last[0].dim_value != batch:
        raise StageError(f"the exported graph gives {last[0].dim_value} rows for a batch of {batch}")
    if last[1].dim_value != num_classes:
        raise StageError(f"the exported graph gives {last[1].dim_value} classes, the network {num_classes}")
