"""A classifier that prepares its images itself: uint8 images of any size in, the most likely classes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose, helper

from jstc.core import files
from jstc.core.preprocessing import Preprocessing
from jstc.errors import StageError
from jstc.export.preprocess_graph import (
    CLASSES,
    FLOAT_TYPES,
    IMAGES,
    PREPARED,
    PROBABILITIES,
    SCORES,
    Interface,
    after,
    before,
)
from jstc.export.write import checked
from jstc.ort import sessions

__all__ = ["preprocess_path", "write_with_preprocess"]

_FIRST_OPSET = 18
_PREFIX = "network/"
_BATCHES = (1, 7)


def preprocess_path(source: Path) -> Path:
    """Where the companion of an exported file lies: model.int8.onnx -> model.int8.preprocess.onnx."""
    return source.with_name(f"{source.stem}.preprocess.onnx")


def write_with_preprocess(source: Path, path: Path, preprocessing: Preprocessing, *, top_k: int = 5) -> None:
    """Write the classifier in `source` with its preprocessing and its softmax inside to `path`.

    Input `images`: uint8 [N, height, width, C] of any height and width; outputs `classes` int64 [N, k] and
    `probabilities` float32 [N, k], the most likely first, k = min(`top_k`, number of classes). Images are
    prepared as `preprocessing` says, to the same bytes as by Pillow. The batch size stays dynamic or fixed,
    as it is in `source`; the metadata is kept. The file is checked by onnx, shapes included, and run, before
    it gets its name. Raises `StageError` when `source` cannot be wrapped.
    """
    model = onnx.load(str(source))
    network = _interface(model, source)
    channels, size = len(preprocessing.mean), (preprocessing.height, preprocessing.width)
    if channels != network.channels:
        raise StageError(f"{source.name} takes {network.channels} channels, mean and std have {channels}")
    front = before(network, preprocessing)
    whole = _joined(front, model, after(network, top_k=min(top_k, network.num_classes)), network)

    def write(temporary: Path) -> None:
        onnx.save(checked(whole, what="graph with preprocessing"), str(temporary))
        _try(temporary, network, size)

    files.write_with(path, write)


def _interface(model: onnx.ModelProto, source: Path) -> Interface:
    """Raises `StageError` when the graph is no classifier that can be wrapped."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < _FIRST_OPSET:
        raise StageError(f"{source.name} has opset {opset}; preprocessing in the graph needs {_FIRST_OPSET}")
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    taken, given = inputs[0], model.graph.output[0]
    types = taken.type.tensor_type.elem_type, given.type.tensor_type.elem_type
    sizes, scores = _shape(taken), _shape(given)
    if len(inputs) != 1 or len(sizes) != 4 or len(scores) != 2 or not {*types} <= {*FLOAT_TYPES}:
        raise StageError(f"{source.name}: expected one float input [N, C, H, W] and an output [N, classes]")
    batch, channels, num_classes = sizes[0], sizes[1], scores[1]
    if channels is None or num_classes is None:
        raise StageError(f"{source.name} does not say how many channels and classes it has")
    return Interface(
        model.ir_version, opset, taken.name, types[0], given.name, types[1], batch, channels, num_classes
    )


def _shape(item: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value or None for dim in item.type.tensor_type.shape.dim]


def _joined(
    front: onnx.ModelProto, model: onnx.ModelProto, back: onnx.ModelProto, network: Interface
) -> onnx.ModelProto:
    """Only the first output of the network is kept: it has the scores."""
    inner = compose.add_prefix(model, _PREFIX)
    taken, given = _PREFIX + network.input_name, _PREFIX + network.output_name
    started = compose.merge_models(front, inner, io_map=[(PREPARED, taken)], outputs=[given])
    whole: onnx.ModelProto = compose.merge_models(started, back, io_map=[(given, SCORES)])
    helper.set_model_props(whole, {item.key: item.value for item in model.metadata_props})
    whole.graph.name = model.graph.name
    return whole


def _try(path: Path, network: Interface, size: tuple[int, int]) -> None:
    """Run images of two sizes in batches of 1 and 7, or of the fixed size. Raises `StageError`."""
    session = sessions.open_session(path)
    height, width = size
    generator = np.random.default_rng(0)
    for batch in (network.batch,) if network.batch else _BATCHES:
        for shape in ((height, width), (height + 3, 2 * width + 1)):
            images = generator.integers(0, 256, (batch, *shape, network.channels), dtype=np.uint8)
            try:
                answers = session.run([CLASSES, PROBABILITIES], {IMAGES: images})
            except sessions.ORT_ERRORS as error:
                raise StageError(f"onnxruntime cannot run the graph with preprocessing: {error}") from error
            _require_answers(*answers, batch=batch, num_classes=network.num_classes)


def _require_answers(
    classes: npt.NDArray[np.int64], shares: npt.NDArray[np.float32], *, batch: int, num_classes: int
) -> None:
    right = len(classes) == len(shares) == batch and classes.dtype == np.int64
    if not right or classes.min() < 0 or classes.max() >= num_classes or not np.isfinite(shares).all():
        raise StageError(f"the graph with preprocessing answered {batch} images with {classes}, {shares}")
