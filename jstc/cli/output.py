"""Results on stdout: tables for people, one JSON document for programs. Nothing else writes there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc.cli import bench_view, export_view
from jstc.cli.bench_view import show as bench
from jstc.cli.numbers import figure, plain
from jstc.cli.printing import closing, document, label, note, page, table, text

if TYPE_CHECKING:
    from jstc.models import Consent
    from jstc.progress import Progress

__all__ = ["bench", "document", "label", "note", "plain", "progress", "run_stage", "stage", "summary"]
__all__ += ["figure", "table", "text"]

_OF_EVERY_GROUP = ("flops_share",)
"""Figures of a result that have a line for every channel group in the report, and would fill a page here."""


@contextlib.contextmanager
def progress(*, quiet: bool, verbose: bool) -> Iterator[Progress]:
    """The progress display for stderr."""
    from jstc.cli.progress import shown

    with shown(quiet=quiet, verbose=verbose) as display:
        yield display


def summary(content: dict[str, Any], path: Path, *, as_json: bool, quiet: bool = False) -> None:
    """The closing table of a run: the target network beside the slim one, or beside those of all budgets."""
    if "sweep" in content:
        from jstc.cli import sweep_output

        sweep_output.summary(content, path, as_json=as_json, quiet=quiet)
        return
    if as_json:
        document(content)
        return
    from jstc import report

    rows = [list(row) for row in report.table(content)]
    table([f"{content['model']} on {content['dataset']}", "target", "slim", ""], rows, numbers_from=1)
    if quiet:
        return
    for remark in content.get("notes", ()):
        note(f"note: {remark}")
    note(f"Everything is in {path}")
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
    consent: Consent,
) -> None:
    """Run one stage of a run directory and show its result; `changes` and `overrides` go to its recipe."""
    from jstc import recipe_file
    from jstc.cli import options
    from jstc.pipeline import chain
    from jstc.pipeline.run_directory import read_recipe

    path = options.run_or_newest(run)
    recipe = read_recipe(path)
    if changes or overrides:
        recipe = recipe_file.load(path / "recipe.yaml", overrides, flags=changes)
    with progress(quiet=quiet, verbose=verbose) as shown:
        chain.run_stage(
            path,
            name,
            recipe=recipe,
            fresh=fresh,
            command=options.command_line(),
            progress=shown,
            consent=consent,
        )
    stage(path, name, as_json=json, quiet=quiet)


def stage(path: Path, name: str, *, as_json: bool, quiet: bool = False) -> None:
    """The result of one stage."""
    from jstc.pipeline.damage import explained

    with explained(path):
        _stage(path, name, as_json=as_json, quiet=quiet)
        if not quiet:
            _left_out(path)
            if not as_json:
                closing(path, name)


def _left_out(path: Path) -> None:
    from jstc.report.summary import unreadable_images

    if count := unreadable_images(path):
        images = "1 image" if count == 1 else f"{count:,} images"
        note(f"note: {images} could not be read, named with the reason in {path / 'corrupt*.jsonl'}")


def _stage(path: Path, name: str, *, as_json: bool, quiet: bool) -> None:
    from jstc import files
    from jstc.pipeline.run_directory import read_recipe

    labels = read_recipe(path).labels
    if len(labels) > 1:
        from jstc.cli import sweep_output

        sweep_output.stage(path, name, labels, as_json=as_json, quiet=quiet)
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
        export_view.show(result, title=f"export of {path}")
    else:
        found = {key: value for key, value in result.items() if key not in _OF_EVERY_GROUP}
        rows = [row for entry in found.pop("files", [{}]) for row in (entry | found).items()]
        table([f"{name} of {path}", ""], [[label(name, key), figure(key, value)] for key, value in rows])
