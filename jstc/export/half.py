"""float16: the graph of the float32 file with weights and arithmetic in half precision."""

from __future__ import annotations

from typing import Literal

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from jstc.errors import StageError
from jstc.export.quiet import quiet

__all__ = ["to_fp16"]


def to_fp16(model: onnx.ModelProto, *, io: Literal["float32", "float16"] = "float32") -> onnx.ModelProto:
    """`model` in half precision, by onnxruntime's converter; `io` is the type of its input and output.

    Operators that know no half precision keep float32 between casts. `model` itself is left as it is.
    Raises `StageError` when the converter fails.
    """
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(model)
    try:
        with quiet():
            converted: onnx.ModelProto = convert_float_to_float16(duplicate, keep_io_types=io == "float32")
            OnnxModel(converted).topological_sort(is_deterministic=True)  # casts were added at the end
    except Exception as error:  # the converter has no exceptions of its own
        raise StageError(f"onnxruntime could not convert the graph to float16: {error}") from error
    return converted
