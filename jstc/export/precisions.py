"""The precisions that a network is exported in: the file of each, how it is made, the gate it must pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import onnx
from torch import Tensor

from jstc.export.half import to_fp16
from jstc.export.int8 import to_int8
from jstc.recipe import ExportSettings, Precision

__all__ = ["LARGEST_HALF", "PRECISIONS", "accuracy_problem", "converted", "file_name"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

LARGEST_HALF = 65504.0
"""The largest number in float16."""

_ROUNDING = 1e-9  # of fractions of whole numbers of images, in percentage points


def file_name(precision: Precision) -> str:
    """`model.onnx` in float32, otherwise such as `model.int8.onnx`."""
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


def converted(
    model: onnx.ModelProto,
    precision: Precision,
    *,
    settings: ExportSettings,
    images: Callable[[], Tensor],
) -> onnx.ModelProto:
    """The float32 `model` in `precision`; `images` gives those that calibrate int8, [N, C, H, W].

    Raises `StageError` when onnxruntime's tools cannot convert it.
    """
    if precision == "fp16":
        return to_fp16(model, io=settings.fp16_io)
    if precision == "int8":
        return to_int8(model, images(), calibration=settings.calibration, reduce_range=settings.reduce_range)
    return model


def accuracy_problem(file: str, *, accuracy: float, reference: float, max_drop: float) -> str | None:
    """What is wrong when `accuracy` is more than `max_drop` percentage points below `reference`.

    Accuracies are fractions on the same images.
    """
    drop = 100 * (reference - accuracy)
    if drop <= max_drop + _ROUNDING:
        return None
    return (
        f"{file} loses {drop:.2f} percentage points of accuracy on the test split: {100 * accuracy:.2f} % in "
        f"onnxruntime, {100 * reference:.2f} % in torch; at most {max_drop:g} may be lost"
    )
