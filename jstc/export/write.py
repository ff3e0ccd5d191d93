"""Networks as ONNX, traced, checked, and written whole or not at all; classifiers for any batch or one."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from jstc.channels.trace.memory import duplicate
from jstc.core import files
from jstc.errors import StageError
from jstc.models.outputs import ScoresOnly, logits
from jstc.ort import sessions

__all__ = [
    "INPUT_NAME",
    "OUTPUT_NAME",
    "RUN_SIZES",
    "Runner",
    "checked",
    "forget_origin",
    "padded",
    "plain_copy",
    "reference",
    "require_runs",
    "save",
    "silence",
    "traced",
    "write_onnx",
]

INPUT_NAME = "images"
OUTPUT_NAME = "logits"

_BATCH = "batch"
_MAX_BYTES = 2**31 - 1
_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CHUNK = 32

RUN_SIZES = (1, 7)
"""Batch sizes that a file with a dynamic one must run."""


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

    `shape` is [C, H, W]; without `batch` the file takes any number of images. Of several outputs of a network
    only its scores are in the file. The network itself is left as it is.
    The file is checked by onnx, shapes included, and written whole or not at all.
    Raises `StageError` when torch cannot export the network, or one file cannot hold it.
    """
    copied, num_classes = reference(network, shape)
    example = torch.zeros(batch or 2, *shape)  # the exporter would take a batch of 1 for a constant
    sizes = ({0: torch.export.Dim(_BATCH)},) if batch is None else None
    model = traced(copied, {INPUT_NAME: example}, [OUTPUT_NAME], opset=opset, sizes=sizes)
    _check_interface(model, num_classes, batch)
    save(model, path, metadata=metadata)


def traced(
    network: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    opset: int,
    sizes: tuple[Any, ...] | None = None,
) -> onnx.ModelProto:
    """The graph of `network`, which takes the tensors of `example`, by name, and gives `outputs`.

    `sizes` are the dynamic ones as `torch.export` has them; each is 2 at least in `example`. Raises
    `StageError` when torch cannot export the network in that opset, or one file cannot hold it.
    """
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    if weights > _MAX_BYTES:
        raise StageError(
            f"the network has {weights / 1e9:.1f} GB of weights; one ONNX file holds 2 GB at most"
        )
    with silence() as said, torch.autocast("cpu", enabled=False):
        try:
            program = torch.onnx.export(
                network,
                tuple(example.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(example),
                output_names=list(outputs),
                dynamic_shapes=sizes,
                verbose=False,
            )
        except Exception as error:
            raise _refusal(error, said.getvalue()) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    got = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if got != opset:  # the exporter only warns when it cannot convert
        raise StageError(f"opset {opset} was asked for, but torch.onnx can write only opset {got} here")
    return model


def _refusal(error: Exception, said: str) -> StageError:
    # The exporter wraps the reason in its own errors, each pages long.
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in (str(error) or said).splitlines() if line.strip()]
    reason = lines[0] if lines else "it gives no reason"
    return StageError(
        f"torch.onnx could not export the network: {type(error).__name__}: {reason}",
        "the forward must work for any batch size and must not branch on the values of tensors",
    )


def _check_interface(model: onnx.ModelProto, num_classes: int, batch: int | None) -> None:
    first, last = (item.type.tensor_type.shape.dim for item in (model.graph.input[0], model.graph.output[0]))
    if batch is None and (not first[0].dim_param or last[0].dim_param != first[0].dim_param):
        raise StageError("the exported graph has a fixed batch size: the forward uses a constant for it")
    if batch is not None and last[0].dim_value != batch:
        raise StageError(f"the exported graph gives {last[0].dim_value} rows for a batch of {batch}")
    if last[1].dim_value != num_classes:
        raise StageError(f"the exported graph gives {last[1].dim_value} classes, the network {num_classes}")


# The network as it is exported: a float32 copy on the CPU, in evaluation mode, with one output.


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32, contiguous and in evaluation mode; `network` is left as it is.

    Raises `StageError` for one that cannot be copied.
    """
    try:
        copied = duplicate(network).to("cpu", torch.float32).eval()
    except Exception as error:  # whatever its attributes raise: a lock, an open file, an iterator
        raise StageError(f"the network cannot be copied: {error}") from error
    return copied.to(memory_format=torch.contiguous_format)


def reference(network: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """A copy of `network` to export and to compare with, and its number of classes.

    It is a `plain_copy`. `shape` is [C, H, W]. Raises `StageError` when the output is not [N, classes].
    """
    copied = plain_copy(network)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        output = copied(torch.zeros(2, *shape))
    scores = logits(output)
    if scores.ndim != 2 or len(scores) != 2:
        raise StageError(f"only classifiers can be exported: 2 images gave {tuple(scores.shape)} outputs")
    # Wrapping changes the names of the weights in the file, so it is done only where needed.
    return (copied if output is scores else ScoresOnly(copied).eval()), scores.shape[1]


# What every exported graph must stand: onnx's checker, shape inference, and a run on real images.


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


def save(
    model: onnx.ModelProto,
    path: Path,
    *,
    metadata: Mapping[str, str],
    verify: Callable[[Path], object] | None = None,
) -> None:
    """Check `model`, give it `metadata` and no other notes, and write it whole or not at all.

    `verify` looks at the file before it gets its place; what it raises leaves nothing behind.
    """
    forget_origin(model)
    onnx.helper.set_model_props(model, dict(metadata))

    def write(temporary: Path) -> None:
        onnx.save(checked(model), str(temporary))
        if verify is not None:
            verify(temporary)

    files.write_with(path, write)


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
        scores = runner.logits(padded(images, size))
        if len(scores) != size:
            raise StageError(f"{path.name} gave {len(scores)} rows of logits for {size} images")


# An exported file at work: float images in, logits out, whatever its types and its batch size.


class Runner:
    """A file with one input [N, C, H, W] of floats, on the CPU. `batch` is its fixed batch size, or None.

    Raises `InputError` when the file is no such classifier.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = sessions.open_session(path)
        self._signature = sessions.signature(self._session, path)
        self.batch = self._signature.input_shape[0]

    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 [N, classes] of `images` [N, C, H, W], in one run; N fits the file's batch size.

        Raises `StageError` when onnxruntime cannot run them.
        """
        feed = images.detach().to("cpu", torch.float32).contiguous().numpy()
        feed = feed.astype(_FLOAT_TYPES.get(self._signature.input_type, np.float32), copy=False)
        try:
            found = self._session.run(None, {self._signature.input_name: feed})[0]
        except sessions.ORT_ERRORS as error:
            raise StageError(f"onnxruntime cannot run {self.path.name} on these images: {error}") from error
        return torch.from_numpy(found.astype(np.float32, copy=False))

    def all_logits(self, images: Tensor) -> Tensor:
        """Logits of any number of images, in batches that the file takes."""
        size = self.batch or _CHUNK
        found = [
            self.logits(chunk if self.batch is None else padded(chunk, size))[: len(chunk)]
            for chunk in torch.split(images, size)
        ]
        return torch.cat(found)


def padded(images: Tensor, size: int) -> Tensor:
    """`size` images [size, C, H, W]: those given, and as many of them again as are missing."""
    return images[torch.arange(size) % len(images)]


# Libraries that talk: what they print, log and warn is kept from the user.


@contextlib.contextmanager
def silence() -> Iterator[io.StringIO]:
    """Keep what is printed, logged and warned in the block from the user; what was printed is yielded."""
    said = io.StringIO()
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # `logging.warning` gives the root logger one
