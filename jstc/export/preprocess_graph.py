"""What stands before and after a network in a file that prepares its images itself: two small ONNX graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper, parser

__all__ = ["CLASSES", "FLOAT_TYPES", "IMAGES", "PREPARED", "PROBABILITIES", "SCORES", "Interface"]
__all__ += ["after", "before"]

IMAGES = "images"
PREPARED = "prepared"
SCORES = "scores"
CLASSES = "classes"
PROBABILITIES = "probabilities"
FLOAT_TYPES: dict[int, str] = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "float16"}

_TO = {"int64": TensorProto.INT64, "float": TensorProto.FLOAT, "bool": TensorProto.BOOL}

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
