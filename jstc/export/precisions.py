"""The precisions that a network is exported in: the file of each, how it is made, the gate it must pass."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import Tensor

from jstc.core import numbers
from jstc.errors import StageError
from jstc.export.write import padded, silence
from jstc.recipe.schema import ExportSettings, Precision

__all__ = [
    "LARGEST_FP16",
    "PRECISIONS",
    "Calibration",
    "Reader",
    "accuracy_problem",
    "converted",
    "file_name",
    "largest_activation",
    "to_fp16",
    "to_int8",
]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

LARGEST_FP16 = 65504.0
"""The largest number in float16."""

_ROUNDING = 1e-9  # of fractions of whole numbers of images, in percentage points

Calibration = Literal["minmax", "entropy", "percentile"]

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_CHUNK = 32


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
    """The complaint when `accuracy` is more than `max_drop` percentage points below `reference`.

    Accuracies are fractions on the same images.
    """
    drop = 100 * (reference - accuracy)
    if drop <= max_drop + _ROUNDING:
        return None
    lost = numbers.unlike(drop, max_drop, "{:.{}f}".format, 2)
    return (
        f"{file} loses {lost} percentage points of accuracy on the test split: {100 * accuracy:.2f} % in "
        f"onnxruntime, {100 * reference:.2f} % in torch; at most {max_drop:g} may be lost"
    )


# float16: the graph of the float32 file with weights and arithmetic in half precision.


def to_fp16(model: onnx.ModelProto, *, io: Literal["float32", "float16"] = "float32") -> onnx.ModelProto:
    """`model` in half precision, by onnxruntime's converter; `io` is the type of its input and output.

    Operators that know no half precision keep float32 between casts. `model` itself is left as it is.
    Raises `StageError` when the converter fails.
    """
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(model)
    try:
        with silence():
            converted: onnx.ModelProto = convert_float_to_float16(duplicate, keep_io_types=io == "float32")
            OnnxModel(converted).topological_sort(is_deterministic=True)  # casts were added at the end
    except Exception as error:  # the converter has no exceptions of its own
        raise StageError(f"onnxruntime could not convert the graph to float16: {error}") from error
    return converted


# int8: static quantisation by onnxruntime, QDQ, weights per channel, calibrated on real images.
#
# Activations are unsigned and weights signed: the pair that onnxruntime's kernels for x86 are fastest with.
# Without VNNI these kernels add two products of 8 by 8 bits in 16, which overflows; weights of 7 bits
# (`reduce_range`) cannot. Measured on such a processor: 97.7 % top-1 in float32 and with 7 bits,
# 95.8 % with 8.


def to_int8(
    model: onnx.ModelProto,
    images: Tensor,
    *,
    calibration: Calibration = "minmax",
    reduce_range: bool = True,
) -> onnx.ModelProto:
    """`model` with its weights, activations and arithmetic in 8 bits.

    `images` [N, C, H, W], normalised, set the ranges of the activations by the method of `calibration`.
    Raises `StageError` when onnxruntime cannot quantise the graph.
    """
    if not len(images):
        raise StageError("int8 needs at least one image to calibrate with")
    with tempfile.TemporaryDirectory(prefix="jstc-int8-") as folder:
        source, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        onnx.save(model, str(source))
        try:
            with silence():
                quant_pre_process(source, prepared, skip_symbolic_shape=True)
                quantize_static(
                    prepared,
                    quantised,
                    Reader(model, images),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=reduce_range,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=_METHODS[calibration],
                    # Histograms keep every activation of what they are given at once: one batch at a time.
                    extra_options={} if calibration == "minmax" else {"CalibStridedMinMax": 1},
                )
        except Exception as error:  # onnxruntime's tools raise whatever comes
            raise StageError(f"onnxruntime could not quantise the graph: {error}") from error
        return _tidied(onnx.load(str(quantised)))


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    # onnxruntime's optimiser declares every domain that it knows, used or not.
    used: set[Any] = {node.domain for node in model.graph.node} | {"", "ai.onnx"}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


# Real images through a graph with onnxruntime's calibration tools: the ranges of its activations.


class Reader(CalibrationDataReader):  # type: ignore[misc,unused-ignore]
    """Images [N, C, H, W] in batches that `model` takes, as onnxruntime's tools ask for them."""

    def __init__(self, model: onnx.ModelProto, images: Tensor) -> None:
        self._name = model.graph.input[0].name
        self._batches = _batches(images, model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give only these batches from now on."""
        self._waiting = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """The next batch by the name of the input; None after the last."""
        batch = next(self._waiting, None)
        return None if batch is None else {self._name: batch.numpy()}


def largest_activation(model: onnx.ModelProto, images: Tensor) -> float:
    """The largest absolute value of any tensor inside `model` on `images`, undefined values apart.

    Raises `StageError` when onnxruntime cannot run the graph.
    """
    with tempfile.TemporaryDirectory(prefix="jstc-ranges-") as folder:
        source, augmented = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(model, str(source))
        try:
            with silence():
                calibrator = create_calibrator(source, augmented_model_path=str(augmented))
                calibrator.collect_data(Reader(model, images))
                ranges = calibrator.compute_data().data.values()
        except Exception as error:  # onnxruntime's tools raise whatever comes
            raise StageError(f"onnxruntime could not find the ranges of activations: {error}") from error
        return max(float(np.abs(edge).max()) for found in ranges for edge in found.range_value)


def _batches(images: Tensor, fixed: int) -> Sequence[Tensor]:
    chunks = torch.split(images.to("cpu", torch.float32).contiguous(), fixed or _CHUNK)
    return [padded(chunk, fixed) if fixed else chunk for chunk in chunks]
