"""Results on stdout: tables for people, one JSON document for programs. Nothing else writes there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc.cli import bench_view, console
from jstc.cli.bench_view import show as bench
from jstc.cli.console import closing, document, label, note, page, table, text
from jstc.core.numbers import figure, plain

if TYPE_CHECKING:
    from jstc.core.progress import Progress
    from jstc.models import Permissions
    from jstc.summary import Summary, SweepSummary

__all__ = [
    "bench",
    "document",
    "figure",
    "label",
    "note",
    "plain",
    "progress",
    "run_stage",
    "show",
    "stage",
    "summary",
    "sweep_stage",
    "table",
    "text",
]

# What an export has written: a line a file, and what each lost against torch.

HEADER = ("accuracy", "vs torch", "same top-1", "max diff", "size")


def show(*results: dict[str, Any], title: str) -> None:
    """The files of one export, or of the exports of several budgets."""
    rows = [_row(entry, result.get("torch_accuracy")) for result in results for entry in result["files"]]
    console.table([title, *HEADER], rows, numbers_from=1, whole_names=True)


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


_OF_EVERY_GROUP = ("flops_share",)
"""Figures of a result that have a line for every channel group in the report, and would fill a page here."""


@contextlib.contextmanager
def progress(*, quiet: bool, verbose: bool) -> Iterator[Progress]:
    """The progress display for stderr."""
    from jstc.cli.progress_view import shown

    with shown(quiet=quiet, verbose=verbose) as display:
        yield display


def summary(found: Summary | SweepSummary, path: Path, *, as_json: bool, quiet: bool = False) -> None:
    """The closing table of a run: the target network beside the slim one, or beside those of all budgets."""
    from jstc import report
    from jstc.summary import SweepSummary, to_document

    if as_json:
        document(to_document(found))
        return
    if isinstance(found, SweepSummary):
        header, rows = report.sweep_table(found)
        table(header, rows, numbers_from=1, whole_names=True)
        where = f"{path}, each budget's run in {', '.join(f'{row.run}/' for row in found.sweep)}"
    else:
        cells = [list(row) for row in report.table(found)]
        table([f"{found.model} on {found.dataset}", "target", "slim", ""], cells, numbers_from=1)
        where = str(path)
    if quiet:
        return
    for remark in found.notes:
        note(f"note: {remark}")
    note(f"Everything is in {where}")
    page(path)


def run_stage(
    name: str,
    run: Path | None,
    *,
    changes: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    fresh: bool,
    json: bool,
    quiet: bool,
    verbose: bool,
    permissions: Permissions,
) -> None:
    """Run one stage of a run directory and show its result; `changes` and `overrides` go to its recipe."""
    from jstc.cli import options
    from jstc.recipe import loading
    from jstc.runs import commands
    from jstc.runs.directory import read_recipe

    path = options.run_or_newest(run)
    recipe = read_recipe(path)
    if changes or overrides:
        recipe = loading.load(path / "recipe.yaml", overrides, flags=changes)
    with progress(quiet=quiet, verbose=verbose) as shown:
        commands.run_stage(
            path,
            name,
            recipe=recipe,
            fresh=fresh,
            command=options.command_line(),
            progress=shown,
            permissions=permissions,
        )
    stage(path, name, as_json=json, quiet=quiet)


def stage(path: Path, name: str, *, as_json: bool, quiet: bool = False) -> None:
    """The result of one stage."""
    from jstc.runs.manifest import explained

    with explained(path):
        _stage(path, name, as_json=as_json, quiet=quiet)
        if not quiet:
            _left_out(path)
            if not as_json:
                closing(path, name)


def _left_out(path: Path) -> None:
    from jstc.report import unreadable_images

    if count := unreadable_images(path):
        images = "1 image" if count == 1 else f"{count:,} images"
        note(f"note: {images} could not be read, named with the reason in {path / 'corrupt*.jsonl'}")


def _stage(path: Path, name: str, *, as_json: bool, quiet: bool) -> None:
    from jstc.core import files
    from jstc.runs.directory import read_recipe

    labels = read_recipe(path).labels
    if len(labels) > 1:
        sweep_stage(path, name, labels, as_json=as_json, quiet=quiet)
        return
    result = files.read_json(path / name / "result.json")
    if name == "bench":
        result |= bench_view.read(path / name)
    if as_json:
        document({"run": str(path), "stage": name, **result})
        return
    if name == "bench":
        bench(result, as_json=False, quiet=quiet)
    elif name == "export":
        show(result, title=f"export of {path}")
    else:
        found = {key: value for key, value in result.items() if key not in _OF_EVERY_GROUP}
        rows = [row for entry in found.pop("files", [{}]) for row in (entry | found).items()]
        table([f"{name} of {path}", ""], [[label(name, key), figure(key, value)] for key, value in rows])


# Results of several budgets on stdout: one table, a line a budget, or one JSON document.

# Of a stage's figures those that fit on a line; --json has them all.
_SHOWN = {
    "search": ("flops", "params", "accuracy", "round_of_plan"),
    "finetune": ("accuracy", "loss", "epochs", "seconds"),
    "slim": ("flops", "params", "accuracy", "max_abs_diff_fold"),
}


def sweep_stage(path: Path, name: str, labels: Sequence[str], *, as_json: bool, quiet: bool = False) -> None:
    """The results of one stage, which has run for every budget."""
    results = [_result(path, label, name) for label in labels]
    if as_json:
        console.document({"run": str(path), "stage": name, "budgets": results})
        return
    if name == "bench":
        for label in labels:
            bench_view.show(bench_view.read(path / label / name), as_json=False, quiet=quiet, title=label)
    elif name == "export":
        show(*results, title=f"{name} of {path}")
    else:
        header = [console.label(name, key) for key in _SHOWN[name]]
        rows = [[result["label"], *_cells(result, name)] for result in results]
        console.table([f"{name} of {path}", *header], rows, numbers_from=1, whole_names=True)


def _result(path: Path, label: str, name: str) -> dict[str, Any]:
    from jstc.core import files

    result = files.read_json(path / label / name / "result.json")
    if name == "bench":
        result |= bench_view.read(path / label / name)
    for key in ("files", "rows", "skipped", "profiles"):
        if key in result:
            result[key] = [row | {"file": f"{label}/{row['file'] or '*'}"} for row in result[key]]
    return {"label": label, "run": str(path / label), **result}


def _cells(result: dict[str, Any], name: str) -> list[str]:
    return [figure(key, result.get(key)) for key in _SHOWN[name]]
