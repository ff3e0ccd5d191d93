"""What an export has written: a line a file, and what each lost against torch."""

from __future__ import annotations

from typing import Any

from jstc.cli import printing
from jstc.cli.numbers import figure

__all__ = ["show"]

HEADER = ("accuracy", "vs torch", "same top-1", "max diff", "size")


def show(*results: dict[str, Any], title: str) -> None:
    """The files of one export, or of the exports of several budgets."""
    rows = [_row(entry, result.get("torch_accuracy")) for result in results for entry in result["files"]]
    printing.table([title, *HEADER], rows, numbers_from=1, whole_names=True)


def _row(entry: dict[str, Any], reference: float | None) -> list[str]:
    return [
        entry["file"].removeprefix("export/"),
        figure("accuracy", entry["accuracy"]),
        "-" if reference is None else f"{100 * (entry['accuracy'] - reference):+.2f}",
        figure("top1_agreement", entry["top1_agreement"]),
        f"{entry['max_abs_diff']:.2g}",
        _size(entry["bytes"]),
    ]


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"
