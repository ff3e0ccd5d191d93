"""Real images through a graph with onnxruntime's calibration tools: the ranges of its activations."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import create_calibrator
from torch import Tensor

from jstc.errors import StageError
from jstc.export.quiet import quiet
from jstc.export.running import padded

__all__ = ["Reader", "largest_activation"]

_CHUNK = 32


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
            with quiet():
                calibrator = create_calibrator(source, augmented_model_path=str(augmented))
                calibrator.collect_data(Reader(model, images))
                ranges = calibrator.compute_data().data.values()
        except Exception as error:  # onnxruntime's tools raise whatever comes
            raise StageError(f"onnxruntime could not find the ranges of activations: {error}") from error
        return max(float(np.abs(edge).max()) for found in ranges for edge in found.range_value)


def _batches(images: Tensor, fixed: int) -> Sequence[Tensor]:
    chunks = torch.split(images.to("cpu", torch.float32).contiguous(), fixed or _CHUNK)
    return [padded(chunk, fixed) if fixed else chunk for chunk in chunks]
