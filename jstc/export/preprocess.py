"""A classifier that prepares its images itself: uint8 images of any size in, the most likely classes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, parser

from jstc.core import files
from jstc.errors import StageError
from jstc.export.write import checked
from jstc.ort import sessions

__all__ = [
    "CLASSES",
    "FLOAT_TYPES",
    "IMAGES",
    "PREPARED",
    "PROBABILITIES",
    "SCORES",
    "Interface",
    "after",
    "before",
    "preprocess_path",
    "write_with_preprocess",
]

IMAGES = "images"
PREPARED = "prepared"
SCORES = "scores"
CLASSES = "classes"
PROBABILITIES = "probabilities"
FLOAT_TYPES: dict[int, str] = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "float16"}

_TO = {"int64": TensorProto.INT64, "float": TensorProto.FLOAT, "bool": TensorProto.BOOL}

_FIRST_OPSET = 18  # the first in which Resize can antialias
_PREFIX = "network/"
_BATCHES = (1, 7)


def preprocess_path(source: Path) -> Path:
    """Where the companion of an exported file lies: model.int8.onnx -> model.int8.preprocess.onnx."""
    return source.with_name(f"{source.stem}.preprocess.onnx")


def write_with_preprocess(
    source: Path,
    path: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: tuple[int, int],
    resize_side: int | None,
    top_k: int = 5,
) -> None:
    """Write the classifier in `source` with its preprocessing and its softmax inside to `path`.

    Input `images`: uint8 [N, height, width, C] of any height and width; outputs `classes` int64 [N, k] and
    `probabilities` float32 [N, k], the most likely first, k = min(`top_k`, number of classes). Images are
    brought to `size` (height, width) as evaluation does it: with `resize_side`, the shorter side is made as
    long as that and the middle is cut out, unless an image has the right size already; without, they are
    stretched. Then a pixel x in [0, 1] of channel c becomes (x - mean[c]) / std[c]. The batch size stays
    dynamic or fixed, as it is in `source`; the metadata is kept. The file is checked by onnx, shapes
    included, and run, before it gets its name. Raises `StageError` when `source` cannot be wrapped.
    """
    model = onnx.load(str(source))
    network = _interface(model, source)
    if len(mean) != network.channels or len(std) != network.channels:
        raise StageError(f"{source.name} takes {network.channels} channels, mean and std have {len(mean)}")
    front = before(network, size=size, resize_side=resize_side, mean=mean, std=std)
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


# What stands before and after a network in a file that prepares its images itself: two small ONNX graphs.

# Evaluation resizes such images as bytes, with Pillow, and cuts out the middle. An image that has the size of
# the network already is taken as it is. Round takes halves to even numbers, as Python does for the margin.
# `exclude_outside` is what Pillow and torch do at the border. Resize gets all four sizes: onnxruntime's
# optimiser moves transpositions through it, and miscounts where there are two and `axes`.
_CROP = """
  size_now = Shape<start=2>(nchw)
  shorter = ReduceMin<keepdims=1>(size_now)
  enlarged = Mul(size_now, side)
  proportional = Div(enlarged, shorter)
  equal = Equal(size_now, size)
  equal_numbers = Cast<to={int64}>(equal)
  all_equal = ReduceMin<keepdims=1>(equal_numbers)
  fits = Cast<to={bool}>(all_equal)
  size_then = Where(fits, size_now, proportional)
  counts = Shape<end=2>(nchw)
  sizes = Concat<axis=0>(counts, size_then)
  resized = Resize<antialias=1, exclude_outside=1, mode="linear">(nchw, , , sizes)
  excess = Sub(size_then, size)
  excess_float = Cast<to={float}>(excess)
  half = Div(excess_float, two)
  half_whole = Round(half)
  first = Cast<to={int64}>(half_whole)
  last = Add(first, size)
  middle = Slice(resized, first, last, axes)
  pixels = Cast<to={float}>(middle)
"""

# Evaluation stretches such images to the network's size, as floats.
_STRETCH = """
  float_images = Cast<to={float}>(nchw)
  counts = Shape<end=2>(nchw)
  sizes = Concat<axis=0>(counts, size)
  pixels = Resize<antialias=1, exclude_outside=1, mode="linear">(float_images, , , sizes)
"""

_BEFORE = """<ir_version: {ir_version}, opset_import: ["": {opset}]>
before (uint8[{batch}, height, width, {channels}] {images}) =>
  ({type}[{batch}, {channels}, {height}, {width}] {prepared})
{{
  nchw = Transpose<perm=[0, 3, 1, 2]>({images})
  {resize}
  shaped = Reshape(pixels, shape)
  centred = Sub(shaped, mean)
  normalised = Div(centred, std)
  {prepared} = Cast<to={to}>(normalised)
}}
"""

_AFTER = """<ir_version: {ir_version}, opset_import: ["": {opset}]>
after ({type}[{batch}, {num_classes}] {scores}) =>
  (int64[{batch}, {k}] {classes}, float[{batch}, {k}] {probabilities})
{{
  float_scores = Cast<to={float}>({scores})
  shares = Softmax<axis=1>(float_scores)
  {probabilities}, {classes} = TopK<axis=1>(shares, k)
}}
"""


@dataclass(frozen=True)
class Interface:
    """What the wrapped graph takes and gives; `batch` None is dynamic, types are ONNX's numbers."""

    ir_version: int
    opset: int
    input_name: str
    input_type: int
    output_name: str
    output_type: int
    batch: int | None
    channels: int
    num_classes: int


def before(
    network: Interface,
    *,
    size: tuple[int, int],
    resize_side: int | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> onnx.ModelProto:
    """uint8 [N, height, width, C] of any size -> [N, C, *size], normalised, in the network's float type."""
    height, width = size
    graph = parser.parse_model(
        _BEFORE.format(
            **_common(network),
            channels=network.channels,
            height=height,
            width=width,
            type=FLOAT_TYPES[network.input_type],
            to=network.input_type,
            images=IMAGES,
            prepared=PREPARED,
            resize=(_STRETCH if resize_side is None else _CROP).format(**_TO),
        )
    )
    constants = {"size": size, "shape": (network.batch or -1, network.channels, height, width)}
    if resize_side is not None:
        constants |= {"side": (resize_side,), "axes": (2, 3)}
        _add(graph, "two", np.array(2, np.float32))
    for name, value in constants.items():
        _add(graph, name, np.array(value, np.int64))
    # Of pixels from 0 to 255, in float32: the arithmetic of the data sets.
    for name, figures in (("mean", mean), ("std", std)):
        _add(graph, name, np.array(figures, np.float32).reshape(1, -1, 1, 1) * np.float32(255))
    return graph


def after(network: Interface, *, top_k: int) -> onnx.ModelProto:
    """Scores [N, classes] -> the `top_k` most likely classes int64 and probabilities float32, [N, k]."""
    graph = parser.parse_model(
        _AFTER.format(
            **_common(network),
            type=FLOAT_TYPES[network.output_type],
            num_classes=network.num_classes,
            k=top_k,
            float=TensorProto.FLOAT,
            scores=SCORES,
            classes=CLASSES,
            probabilities=PROBABILITIES,
        )
    )
    _add(graph, "k", np.array([top_k], np.int64))
    return graph


def _common(network: Interface) -> dict[str, object]:
    batch = network.batch or "batch"
    return {"ir_version": network.ir_version, "opset": network.opset, "batch": batch}


def _add(model: onnx.ModelProto, name: str, value: npt.NDArray[Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
