"""ONNX files of trained networks: written, converted, checked against torch, scored, described."""

from __future__ import annotations

from jstc.export.card import encode_metadata, read_metadata
from jstc.export.classifier import open_classifier
from jstc.export.precisions import (
    LARGEST_FP16,
    PRECISIONS,
    accuracy_problem,
    converted,
    file_name,
    largest_activation,
)
from jstc.export.preprocess import preprocess_path, write_with_preprocess
from jstc.export.scoring import (
    Parity,
    Score,
    accuracy,
    parity,
    preprocess_parity,
    require_answers,
    require_parity,
    score,
)
from jstc.export.write import require_runs, save, write_onnx

__all__ = [
    "LARGEST_FP16",
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
    "preprocess_parity",
    "preprocess_path",
    "read_metadata",
    "require_answers",
    "require_parity",
    "require_runs",
    "save",
    "score",
    "write_onnx",
    "write_with_preprocess",
]
