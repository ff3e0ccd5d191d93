"""ONNX files of trained networks: written, checked against torch, scored. See `onnx_file`, `parity`."""

from __future__ import annotations

from jstc.export.accuracy import accuracy, check_fits
from jstc.export.metadata import encode_metadata, read_metadata
from jstc.export.onnx_file import write_onnx
from jstc.export.parity import Parity, parity, require

__all__ = [
    "Parity",
    "accuracy",
    "check_fits",
    "encode_metadata",
    "parity",
    "read_metadata",
    "require",
    "write_onnx",
]
