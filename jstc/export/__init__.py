"""ONNX files of trained networks: written, converted, checked against torch, scored.

See `onnx_file`, `precisions`, `parity`, `accuracy`, `preprocess`.
"""

from __future__ import annotations

from jstc.export.accuracy import Score, accuracy, score
from jstc.export.calibration import largest_activation
from jstc.export.checking import require_runs, save
from jstc.export.classifier import open_classifier
from jstc.export.metadata import encode_metadata, read_metadata
from jstc.export.network import run_reference
from jstc.export.onnx_file import write_onnx
from jstc.export.parity import Parity, parity, require
from jstc.export.precisions import LARGEST_HALF, PRECISIONS, accuracy_problem, converted, file_name
from jstc.export.preprocess import preprocess_path, write_with_preprocess
from jstc.export.whole_parity import parity_of_answers

__all__ = [
    "LARGEST_HALF",
    "PRECISIONS",
    "Parity",
    "Score",
    "accuracy",
    "accuracy_problem",
    "converted",
    "encode_metadata",
    "file_name",
    "largest_activation",
    "open_classifier",
    "parity",
    "parity_of_answers",
    "preprocess_path",
    "read_metadata",
    "require",
    "require_runs",
    "run_reference",
    "save",
    "score",
    "write_onnx",
    "write_with_preprocess",
]
