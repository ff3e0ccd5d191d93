"""What may differ between two recordings of the same code: times, dates, versions, and hashes of these."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["FREE", "masked", "masked_text"]

FREE = frozenset({
    "seconds", "created",          # when, and for how long
    "load_average", "free_disk_gb", "peak_memory_mb",  # of the machine at that moment
    "os",                          # has a version in it
    "sha256", "artifacts",         # hashes of files that hold some of these; the files are compared
})  # fmt: skip
"""Keys of JSON documents whose values are masked."""

_VERSION = re.compile(r"\d+(\.\d+){1,3}([.+-]?[a-z]+\w*)*(\+\w+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?([+-]\d\d:\d\d|Z)?")

_SPENT = r"(?:\d+ h(?: \d+ min)?|\d+ min(?: \d+ s)?|\d+(?:\.\d+)? s)"
_STAGES = r"search|finetune|slim|export|bench|baseline|report|(?:flops|params|latency)[\d.]+\w*"
_TEXTS = (
    (_DATE, "<date>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(rf"\b({_STAGES}) {_SPENT}(?=[,.<]|$)"), r"\1 <time>"),
    (re.compile(r"(load[ _]average(?:</dt><dd>|\s+))[\d.]+"), r"\1<number>"),
    (re.compile(r"((?:free_disk_gb|^ *seconds)\s+)[\d.]+"), r"\1<number>"),
    (re.compile(r"\b(?:Linux|macOS|Windows)-[\w.-]+"), "<os>"),
    (re.compile(r"\b\d+\.\d+\.\d+(?:\.\d+|\.?[a-z]+\w*)*(?:\+\w+)?\b"), "<version>"),
)
_MEMORY = re.compile(r"(?<=<td class=\"number\">)\d\d\.\d MB(?=</td>)")
"""Peak memory in a row of the report's page; files in these rows are told in kB or with two decimals."""


def masked(document: Any) -> Any:
    """A JSON document without what is free: of a masked value, its type remains."""
    if isinstance(document, dict):
        return {k: _type_of(v) if k in FREE else masked(v) for k, v in document.items()}
    if isinstance(document, list):
        return [masked(value) for value in document]
    if isinstance(document, str):
        return "<version>" if _VERSION.fullmatch(document) else _DATE.sub("<date>", document)
    return document


def _type_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _type_of(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_type_of(each) for each in value]
    if value is None or isinstance(value, bool):
        return value
    return "<text>" if isinstance(value, str) else "<number>"


def masked_text(line: str) -> str:
    """A line of a text file without what is free."""
    for pattern, instead in _TEXTS:
        line = pattern.sub(instead, line)
    return _MEMORY.sub("<number> MB", line)
