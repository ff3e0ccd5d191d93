"""The document summary.json, typed, read and written; its form is in `jstc.summary.schema`. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError as Invalid

from jstc.core import files
from jstc.errors import InputError
from jstc.summary.schema import (
    SCHEMA,
    BudgetRow,
    Contribution,
    Costs,
    Frozen,
    Given,
    GroupWidth,
    Judged,
    Latency,
    Mismatch,
    Network,
    OnnxFile,
    Picture,
    Rounding,
    Skipped,
    Summary,
    SweepSummary,
    Target,
    Timing,
    Training,
    Unreached,
)
from jstc.summary.values import BoundFigures, BudgetFigures

__all__ = [
    "SCHEMA",
    "BoundFigures",
    "BudgetFigures",
    "BudgetRow",
    "Contribution",
    "Costs",
    "Frozen",
    "Given",
    "GroupWidth",
    "Judged",
    "Latency",
    "Mismatch",
    "Network",
    "OnnxFile",
    "Picture",
    "Rounding",
    "Skipped",
    "Summary",
    "SweepSummary",
    "Target",
    "Timing",
    "Training",
    "Unreached",
    "load",
    "parse",
    "read",
    "to_document",
]


def to_document(summary: Summary | SweepSummary) -> dict[str, Any]:
    """The JSON document of a summary."""
    return summary.model_dump(by_alias=True, warnings=False)


def load(path: Path) -> Summary | SweepSummary:
    """The summary in the file `path`. Raises `InputError` when it is missing, damaged, or something else."""
    return parse(read(path), name=str(path))


def read(path: Path) -> object:
    """The JSON document in the file `path`. Raises `InputError`."""
    try:
        return files.read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def parse(document: object, *, name: str) -> Summary | SweepSummary:
    """The summary in a JSON document; `name` is what messages call it. Raises `InputError`."""
    if not isinstance(document, dict) or "schema" not in document:
        raise InputError(f"{name} is not a summary.json of jstc (it has no 'schema')")
    if document["schema"] != SCHEMA:
        raise InputError(f"{name} has schema {document['schema']!r}; this version of jstc reads {SCHEMA}")
    kind = Summary if document.get("sweep") is None else SweepSummary
    try:
        return kind.model_validate(document)
    except Invalid as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}"
        raise InputError(f"{name} is not a summary.json of jstc, or damaged: {told}") from None
