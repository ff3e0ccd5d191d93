"""Results of runs and of their stages on stdout: tables for people, one JSON document for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jstc import report
from jstc.cli import bench_view, console
from jstc.core import files
from jstc.core.accuracy import Accuracy
from jstc.core.numbers import UNKNOWN, duration, figure
from jstc.report import unreadable_images
from jstc.report.findings import amount
from jstc.runs.directory import read_recipe
from jstc.runs.manifest import damage_as_input_error
from jstc.summary import Summary, SweepSummary, to_document

__all__ = ["outline", "stage", "summary"]

_NOT_SHOWN = frozenset(
    (
        "candidates", "contributions", "flops_share", "kernels", "max_abs_diff_fold_limit", "reconstruction",
        "rounding", "unreached",
    )
)  # fmt: skip
"""Parts of a result that are figures by themselves; the report, the messages or --json have them."""


def summary(found: Summary | SweepSummary, path: Path, *, as_json: bool, quiet: bool = False) -> None:
    """The closing table of a run: the target network beside the slim one, or beside those of all budgets."""
    if as_json:
        console.document(to_document(found))
        return
    if isinstance(found, SweepSummary):
        header, rows = report.sweep_table(found)
        console.table(header, rows, numbers_from=1, whole_names=True)
        where = f"{path}, each budget's run in {', '.join(f'{row.run}/' for row in found.sweep)}"
    else:
        cells = [list(row) for row in report.table(found)]
        console.table([f"{found.model} on {found.dataset}", "original", "slim", ""], cells, numbers_from=1)
        where = str(path)
    if quiet:
        return
    for remark in found.notes:
        console.note(f"{'warning' if remark in found.warnings else 'note'}: {remark}")
    taken = [seconds for seconds in found.seconds.values() if seconds is not None]
    took = f"; its stages took {duration(sum(taken))}" if taken else ""
    console.note(f"Everything is in {where}{took}")
    console.page(path)


def outline(rows: Sequence[tuple[str, str]], *, as_json: bool) -> None:
    """What a command would do, with `--dry-run`."""
    if as_json:
        console.document(dict(rows))
        return
    console.table(["", ""], [list(row) for row in rows])
    console.note("Everything was checked; nothing was done (--dry-run).")


def stage(path: Path, name: str, *, as_json: bool, quiet: bool = False) -> None:
    """The result of one stage."""
    with damage_as_input_error(path):
        _stage(path, name, as_json=as_json, quiet=quiet)
        if not quiet:
            _left_out(path)
            if not as_json:
                console.closing(path, name)


def _left_out(path: Path) -> None:
    if count := unreadable_images(path):
        images = "1 image" if count == 1 else f"{count:,} images"
        console.note(f"note: {images} could not be read, named with the reason in {path / 'corrupt*.jsonl'}")


def _stage(path: Path, name: str, *, as_json: bool, quiet: bool) -> None:
    labels = read_recipe(path).labels
    if len(labels) > 1:
        _sweep_stage(path, name, labels, as_json=as_json, quiet=quiet)
        return
    result = files.read_json(path / name / "result.json")
    if name == "bench":
        result |= bench_view.read(path / name)
    given = _given(path) if name == "search" else {}
    if as_json:
        console.document({"run": str(path), "stage": name, **result, **given})
        return
    if name == "bench":
        bench_view.show(result, as_json=False, quiet=quiet)
    elif name == "export":
        _show_files(result, title=f"export of {path}")
    else:
        found = {key: value for key, value in result.items() if key not in _NOT_SHOWN}
        rows = [row for entry in found.pop("files", [{}]) for row in (entry | found).items()]
        known = [(key, value) for key, value in rows if value is not None]
        limits = _limits(path) if name == "search" else {}
        cells = [
            [console.label(name, key), _figure(found, key, value) + _allowed(key, limits)]
            for key, value in known
        ]
        if name == "search":
            cells += [list(row) for row in report.brief_search(result)]
        cells += [[_GIVEN, _scored(one)] for one in given.values()]
        console.table([f"{name} of {path}", ""], cells)


def _limits(path: Path) -> dict[str, float]:
    """The limits of a budget of several bounds."""
    bounds = files.read_json(path / "target.json").get("budget", {}).get("bounds", [])
    return {bound["metric"]: bound["limit"] for bound in bounds}


def _allowed(key: str, limits: Mapping[str, float]) -> str:
    """Text behind a figure that has one of several bounds: how much is allowed."""
    if key not in limits:
        return ""
    most = amount(key, limits[key])
    return f", allowed {most}" if key == "latency" else f" of {most} allowed"


def _figure(result: dict[str, Any], key: str, value: Any) -> str:
    """A figure of a stage's result; an accuracy with its sampling error, where its images are counted."""
    return _scored(result) if key == "accuracy" else figure(key, value)


def _scored(result: dict[str, Any]) -> str:
    images = result.get("test_images", result.get("validation_images"))
    found = Accuracy.of(result | {"test_images": images})
    return UNKNOWN if found is None else found.text


_GIVEN = "accuracy of the given network (test split)"


def _given(path: Path) -> dict[str, Any]:
    """The given network's own figures, where weights were given, under the key of a document."""
    result = path / "given" / "result.json"
    return {"given": files.read_json(result)} if result.is_file() else {}


# What an export has written: a line a file, and what each lost against torch.

_HEADER = ("accuracy", "vs torch", "same top-1", "max diff", "size")


def _show_files(*results: dict[str, Any], title: str) -> None:
    """The files of one export, or of the exports of several budgets."""
    rows = [_row(entry, result.get("torch_accuracy")) for result in results for entry in result["files"]]
    console.table([title, *_HEADER], rows, numbers_from=1, whole_names=True)


def _row(entry: dict[str, Any], reference: float | None) -> list[str]:
    return [
        entry["file"].removeprefix("export/"),
        _scored(entry),
        "-" if reference is None else f"{100 * (entry['accuracy'] - reference):+.2f}",
        figure("top1_agreement", entry["top1_agreement"]),
        f"{entry['max_abs_diff']:.2g}",
        _size(entry["bytes"]),
    ]


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


# Results of several budgets on stdout: one table, a line a budget, or one JSON document.

# Of a stage's figures those that fit on a line; --json has them all.
_SHOWN = {
    "search": ("flops", "params", "accuracy", "round_of_plan"),
    "finetune": ("accuracy", "loss", "epochs", "seconds"),
    "slim": ("flops", "params", "accuracy", "max_abs_diff_fold"),
}


def _sweep_stage(path: Path, name: str, labels: Sequence[str], *, as_json: bool, quiet: bool = False) -> None:
    """The results of one stage, which has run for every budget."""
    results = [_result(path, label, name) for label in labels]
    given = _given(path) if name == "search" else {}
    if as_json:
        console.document({"run": str(path), "stage": name, "budgets": results, **given})
        return
    if name == "bench":
        for label in labels:
            bench_view.show(bench_view.read(path / label / name), as_json=False, quiet=quiet, title=label)
    elif name == "export":
        _show_files(*results, title=f"{name} of {path}")
    else:
        header = [console.label(name, key) for key in _SHOWN[name]]
        rows = [[result["label"], *_cells(result, name)] for result in results]
        console.table([f"{name} of {path}", *header], rows, numbers_from=1, whole_names=True)
        for one in () if quiet else given.values():
            console.note(f"{_GIVEN}: {_scored(one)}")


def _result(path: Path, label: str, name: str) -> dict[str, Any]:
    result = files.read_json(path / label / name / "result.json")
    if name == "bench":
        result |= bench_view.read(path / label / name)
    for key in ("files", "rows", "skipped", "profiles"):
        if key in result:
            result[key] = [row | {"file": f"{label}/{row['file'] or '*'}"} for row in result[key]]
    return {"label": label, "run": str(path / label), **result}


def _cells(result: dict[str, Any], name: str) -> list[str]:
    return [_figure(result, key, result.get(key)) for key in _SHOWN[name]]
