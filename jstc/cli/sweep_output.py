"""Results of several budgets on stdout: one table, a line a budget, or one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jstc.cli import bench_view, export_view, printing
from jstc.cli.numbers import figure

__all__ = ["stage", "summary"]

# Of a stage's figures those that fit on a line; --json has them all.
_SHOWN = {
    "search": ("flops", "params", "accuracy", "round_of_plan"),
    "finetune": ("accuracy", "loss", "epochs", "seconds"),
    "slim": ("flops", "params", "accuracy", "max_abs_diff_fold"),
}


def summary(content: dict[str, Any], path: Path, *, as_json: bool, quiet: bool = False) -> None:
    """The closing table of a run with several budgets."""
    if as_json:
        printing.document(content)
        return
    from jstc import report

    header, rows = report.sweep_table(content)
    printing.table(header, rows, numbers_from=1, whole_names=True)
    if quiet:
        return
    for remark in content["notes"]:
        printing.note(f"note: {remark}")
    printing.note(f"Everything is in {path}, each budget's run in {_folders(content)}")
    printing.page(path)


def stage(path: Path, name: str, labels: Sequence[str], *, as_json: bool, quiet: bool = False) -> None:
    """The results of one stage, which has run for every budget."""
    results = [_result(path, label, name) for label in labels]
    if as_json:
        printing.document({"run": str(path), "stage": name, "budgets": results})
        return
    if name == "bench":
        for label in labels:
            bench_view.show(bench_view.read(path / label / name), as_json=False, quiet=quiet, title=label)
    elif name == "export":
        export_view.show(*results, title=f"{name} of {path}")
    else:
        header = [printing.label(name, key) for key in _SHOWN[name]]
        rows = [[result["label"], *_cells(result, name)] for result in results]
        printing.table([f"{name} of {path}", *header], rows, numbers_from=1, whole_names=True)


def _result(path: Path, label: str, name: str) -> dict[str, Any]:
    from jstc import files

    result = files.read_json(path / label / name / "result.json")
    if name == "bench":
        result |= bench_view.read(path / label / name)
    for key in ("files", "rows", "skipped", "profiles"):
        if key in result:
            result[key] = [row | {"file": f"{label}/{row['file'] or '*'}"} for row in result[key]]
    return {"label": label, "run": str(path / label), **result}


def _cells(result: dict[str, Any], name: str) -> list[str]:
    return [figure(key, result.get(key)) for key in _SHOWN[name]]


def _folders(content: dict[str, Any]) -> str:
    return ", ".join(f"{row['run']}/" for row in content["sweep"])
