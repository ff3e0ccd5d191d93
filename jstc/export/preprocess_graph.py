"""What stands before and after a network in a file that prepares its images itself: two small ONNX graphs.

Images are resized as Pillow does it, by products with matrices of its weights; `jstc.data.transforms` has
them in numpy, and the words for them. ONNX has an operator for resizing; but onnxruntime computes its weights
in float32, so that a pixel was off by 1 of 255 here and there, and runtimes differ in how they antialias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper, parser

from jstc.core.preprocessing import Interpolation, Preprocessing
from jstc.data.transforms import PRECISION, RADIUS

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
]

IMAGES = "images"
PREPARED = "prepared"
SCORES = "scores"
CLASSES = "classes"
PROBABILITIES = "probabilities"
FLOAT_TYPES: dict[int, str] = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "float16"}

_TO = {
    "int64": TensorProto.INT64,
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
}


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


# The size of the whole image of which `size` is the middle; one that has this size already is taken as it is.
_SHORTER_SIDE = """
  shorter = ReduceMin<keepdims=1>(size_now)
  enlarged = Mul(size_now, side)
  proportional = Div(enlarged, shorter)
  equal = Equal(size_now, size)
  equal_numbers = Cast<to={int64}>(equal)
  all_equal = ReduceMin<keepdims=1>(equal_numbers)
  fits = Cast<to={bool}>(all_equal)
  size_then = Where(fits, size_now, proportional)
"""
_STRETCHED = """
  size_then = Identity(size)
"""

# Weights [pixels there, pixels here] of an axis, and which of its pixels have any. Round takes halves to even
# numbers, as Python does for the margin.
_AXIS = """
  {axis}_now_whole = Gather(size_now, {axis}_index)
  {axis}_then_whole = Gather(size_then, {axis}_index)
  {axis}_size_whole = Gather(size, {axis}_index)
  {axis}_now = Cast<to={double}>({axis}_now_whole)
  {axis}_then = Cast<to={double}>({axis}_then_whole)
  {axis}_size = Cast<to={double}>({axis}_size_whole)
  {axis}_excess = Sub({axis}_then, {axis}_size)
  {axis}_margin = Mul({axis}_excess, half)
  {axis}_first = Round({axis}_margin)
  {axis}_last = Add({axis}_first, {axis}_size)
  {axis}_pixels = Range({axis}_first, {axis}_last, one)
  {axis}_scale = Div({axis}_now, {axis}_then)
  {axis}_reach = Max({axis}_scale, one)
  {axis}_support = Mul({axis}_reach, radius)
  {axis}_shrink = Div(one, {axis}_reach)
  {axis}_inside = Add({axis}_pixels, half)
  {axis}_centre = Mul({axis}_inside, {axis}_scale)
  {axis}_under = Sub({axis}_centre, {axis}_support)
  {axis}_under_half = Add({axis}_under, half)
  {axis}_under_whole = Floor({axis}_under_half)
  {axis}_begin = Max({axis}_under_whole, zero)
  {axis}_over = Add({axis}_centre, {axis}_support)
  {axis}_over_half = Add({axis}_over, half)
  {axis}_over_whole = Floor({axis}_over_half)
  {axis}_end = Min({axis}_over_whole, {axis}_now)
  {axis}_from = ReduceMin<keepdims=0>({axis}_begin)
  {axis}_to = ReduceMax<keepdims=0>({axis}_end)
  {axis}_places = Range({axis}_from, {axis}_to, one)
  {axis}_centres = Unsqueeze({axis}_centre, last_axis)
  {axis}_begins = Unsqueeze({axis}_begin, last_axis)
  {axis}_ends = Unsqueeze({axis}_end, last_axis)
  {axis}_away = Sub({axis}_places, {axis}_centres)
  {axis}_away_half = Add({axis}_away, half)
  {axis}_distance = Mul({axis}_away_half, {axis}_shrink)
  {axis}_x = Abs({axis}_distance)
  {filter}
  {axis}_after = GreaterOrEqual({axis}_places, {axis}_begins)
  {axis}_before = Less({axis}_places, {axis}_ends)
  {axis}_under_filter = And({axis}_after, {axis}_before)
  {axis}_mask = Cast<to={double}>({axis}_under_filter)
  {axis}_masked = Mul({axis}_filtered, {axis}_mask)
  {axis}_sum = ReduceSum<keepdims=1>({axis}_masked, last_axis)
  {axis}_share = Div({axis}_masked, {axis}_sum)
  {axis}_fine = Mul({axis}_share, precision)
  {axis}_sign = Sign({axis}_fine)
  {axis}_size_of = Abs({axis}_fine)
  {axis}_size_half = Add({axis}_size_of, half)
  {axis}_steps = Floor({axis}_size_half)
  {axis}_weights = Mul({axis}_steps, {axis}_sign)
  {axis}_from_whole = Cast<to={int64}>({axis}_from)
  {axis}_to_whole = Cast<to={int64}>({axis}_to)
  {axis}_from_one = Unsqueeze({axis}_from_whole, first_axis)
  {axis}_to_one = Unsqueeze({axis}_to_whole, first_axis)
"""

_FILTERS: dict[Interpolation, str] = {
    "bilinear": """
  {axis}_triangle = Sub(one, {axis}_x)
  {axis}_filtered = Max({axis}_triangle, zero)
""",
    "bicubic": """
  {axis}_square = Mul({axis}_x, {axis}_x)
  {axis}_near_a = Mul({axis}_x, near_cubic)
  {axis}_near_b = Add({axis}_near_a, near_square)
  {axis}_near_c = Mul({axis}_near_b, {axis}_square)
  {axis}_near = Add({axis}_near_c, one)
  {axis}_far_a = Add({axis}_x, far_square)
  {axis}_far_b = Mul({axis}_far_a, {axis}_x)
  {axis}_far_c = Add({axis}_far_b, far_linear)
  {axis}_far_d = Mul({axis}_far_c, {axis}_x)
  {axis}_far_e = Add({axis}_far_d, far_constant)
  {axis}_far = Mul({axis}_far_e, far_factor)
  {axis}_is_near = Less({axis}_x, one)
  {axis}_is_far = Less({axis}_x, radius)
  {axis}_beyond = Where({axis}_is_far, {axis}_far, zero)
  {axis}_filtered = Where({axis}_is_near, {axis}_near, {axis}_beyond)
""",
}
_CUBIC = {
    "near_cubic": 1.5, "near_square": -2.5,
    "far_square": -5.0, "far_linear": 8.0, "far_constant": -4.0, "far_factor": -0.5,
}  # fmt: skip

# Only the part of the image that is looked at is made wide.
_BEFORE = """<ir_version: {ir_version}, opset_import: ["": {opset}]>
before (uint8[{batch}, height, width, {channels}] {images}) =>
  ({type}[{batch}, {channels}, {height}, {width}] {prepared})
{{
  nchw = Transpose<perm=[0, 3, 1, 2]>({images})
  size_now = Shape<start=2>(nchw)
  {size_then}
  {rows}
  {columns}
  begins = Concat<axis=0>(row_from_one, column_from_one)
  ends = Concat<axis=0>(row_to_one, column_to_one)
  part = Slice(nchw, begins, ends, image_axes)
  wide = Cast<to={double}>(part)
  column_weights_t = Transpose<perm=[1, 0]>(column_weights)
  across = MatMul(wide, column_weights_t)
  across_rounding = Add(across, half_precision)
  across_scaled = Div(across_rounding, precision)
  across_whole = Floor(across_scaled)
  across_bytes = Clip(across_whole, zero, most)
  down = MatMul(row_weights, across_bytes)
  down_rounding = Add(down, half_precision)
  down_scaled = Div(down_rounding, precision)
  down_whole = Floor(down_scaled)
  down_bytes = Clip(down_whole, zero, most)
  pixels = Cast<to={float}>(down_bytes)
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


def before(network: Interface, to: Preprocessing) -> onnx.ModelProto:
    """uint8 [N, height, width, C] of any size -> [N, C, *size], normalised, in the network's float type."""
    rows, columns = (
        _AXIS.format(axis=axis, filter=_FILTERS[to.interpolation].format(axis=axis), **_TO)
        for axis in ("row", "column")
    )
    graph = parser.parse_model(
        _BEFORE.format(
            **_common(network),
            **_TO,
            channels=network.channels,
            height=to.height,
            width=to.width,
            type=FLOAT_TYPES[network.input_type],
            to=network.input_type,
            images=IMAGES,
            prepared=PREPARED,
            size_then=(_STRETCHED if to.resize_side is None else _SHORTER_SIDE).format(**_TO),
            rows=rows,
            columns=columns,
        )
    )
    for name, value in _constants(network, to).items():
        _add(graph, name, value)
    return graph


def _constants(network: Interface, to: Preprocessing) -> dict[str, npt.NDArray[Any]]:
    whole: dict[str, Any] = {
        "size": (to.height, to.width),
        "shape": (network.batch or -1, network.channels, to.height, to.width),
        "image_axes": (2, 3), "first_axis": (0,), "last_axis": (-1,),
        "row_index": 0, "column_index": 1,
    }  # fmt: skip
    if to.resize_side is not None:
        whole["side"] = (to.resize_side,)
    wide = {
        "zero": 0.0, "half": 0.5, "one": 1.0, "most": 255.0,
        "radius": RADIUS[to.interpolation], "precision": PRECISION, "half_precision": PRECISION / 2,
    }  # fmt: skip
    if to.interpolation == "bicubic":
        wide |= _CUBIC
    # Of pixels from 0 to 255, in float32: the arithmetic of the data sets.
    figures = {"mean": to.mean, "std": to.std}
    return (
        {name: np.array(value, np.int64) for name, value in whole.items()}
        | {name: np.array(value, np.float64) for name, value in wide.items()}
        | {
            name: np.array(value, np.float32).reshape(1, -1, 1, 1) * np.float32(255)
            for name, value in figures.items()
        }
    )


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
