"""Results on stdout: tables for people, one JSON document for programs. Nothing else writes there."""

from __future__ import annotations

import contextlib
import json as json_module
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc.cli.numbers import figure, plain

if TYPE_CHECKING:
    from jstc.progress import Progress

__all__ = ["bench", "document", "label", "note", "plain", "progress", "run_stage", "stage", "summary"]
__all__ += ["figure", "table", "text"]


@contextlib.contextmanager
def progress(*, quiet: bool, verbose: bool) -> Iterator[Progress]:
    """The progress display for stderr."""
    from jstc.cli.progress import shown

    with shown(quiet=quiet, verbose=verbose) as display:
        yield display


def document(content: Any) -> None:
    """One JSON document."""
    text(json_module.dumps(content, indent=2, ensure_ascii=False))


def text(content: str) -> None:
    """Text as it is."""
    sys.stdout.write(content if content.endswith("\n") else content + "\n")


def note(content: str) -> None:
    """A remark for the reader, on stderr."""
    print(content, file=sys.stderr)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers_from: int | None = None,
    numbers_to: int | None = None,
    whole_names: bool = False,
) -> None:
    """A table; columns from number `numbers_from` on, up to `numbers_to`, are aligned to the right.

    Plain when not a terminal; on one, texts are folded, those of the first column not with `whole_names`.
    """
    numbers = range(len(header))[numbers_from:numbers_to] if numbers_from is not None else ()
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, show_header=any(header), pad_edge=False)
    for index, name in enumerate(header):
        right = index in numbers
        whole = right or (whole_names and index == 0)
        shown.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        shown.add_row(*map(escape, row))
    console = Console(file=sys.stdout, highlight=False)
    if console.is_terminal:
        console.print(shown)
        return
    # A pipe has no width: nothing may be wrapped or cut there, nor padded.
    console = Console(file=sys.stdout, highlight=False, width=1000)
    with console.capture() as captured:
        console.print(shown)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    text("\n".join(line for line in lines if line))


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


def run_stage(name: str, run: Path | None, *, fresh: bool, json: bool, quiet: bool, verbose: bool) -> None:
    """Run one stage of a run directory and show its result."""
    from jstc.cli import options
    from jstc.pipeline import chain
    from jstc.pipeline.run_directory import read_recipe

    path = options.run_or_newest(run)
    recipe = read_recipe(path)
    with progress(quiet=quiet, verbose=verbose) as shown:
        chain.run_stage(
            path, name, recipe=recipe, fresh=fresh, command=options.command_line(), progress=shown
        )
    stage(path, name, as_json=json, quiet=quiet)


def stage(path: Path, name: str, *, as_json: bool, quiet: bool = False) -> None:
    """The result of one stage."""
    from jstc import files
    from jstc.pipeline.run_directory import read_recipe

    labels = read_recipe(path).labels
    if len(labels) > 1:
        from jstc.cli import sweep_output

        sweep_output.stage(path, name, labels, as_json=as_json, quiet=quiet)
        return
    result = files.read_json(path / name / "result.json")
    if name == "bench":
        result["rows"] = files.read_json(path / name / "bench.json")["rows"]
    if as_json:
        document({"run": str(path), "stage": name, **result})
        return
    if name == "bench":
        bench(result["rows"], as_json=False)
    else:
        rows = [row for entry in result.pop("files", [{}]) for row in (entry | result).items()]
        table([f"{name} of {path}", ""], [[label(name, key), figure(key, value)] for key, value in rows])
    if not quiet:
        note(f"Everything is in {path}")


def label(stage: str, key: str) -> str:
    """What a figure of a stage is called."""
    # The search is judged on images of its own; every other accuracy is on the test split.
    return "accuracy (search-validation split)" if (stage, key) == ("search", "accuracy") else key


def bench(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Latencies beside those of the first file."""
    if as_json:
        document(rows)
        return
    header = ["file", "provider", "batch", "median ms", "p95 ms", "speed-up", ""]
    table(header, [_bench_row(row) for row in rows], numbers_from=2)


def _bench_row(row: dict[str, Any]) -> list[str]:
    timings = [f"{row[key]:.3f}" for key in ("median_ms", "p95_ms")]
    speedup = f"{row['speedup_vs_target']:.2f}x"
    return [row["file"], row["provider"], str(row["batch"]), *timings, speedup, row.get("verdict", "")]
