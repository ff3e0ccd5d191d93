"""Tables, texts and JSON on stdout, remarks on stderr: how the results of every command are printed."""

from __future__ import annotations

import contextlib
import io
import json as json_module
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jstc.core import files
from jstc.core.safe_text import in_json, visible
from jstc.errors import InputError

__all__ = [
    "closing",
    "columns",
    "document",
    "for_results_alone",
    "label",
    "note",
    "page",
    "redirected",
    "results",
    "table",
    "text",
]

_FOLLOWING = {
    "search": "export",
    "finetune": "export",
    "slim": "export",
    "export": "bench",
    "bench": "report",
}
_LABELS = {
    "max_abs_diff_fold": "largest difference of a logit, folded",
    "undecided": "test images on which rounding decides",
    "chance": "accuracy of guessing",
    "settled": "plans stopped changing",
    "round_of_plan": "plan drawn after round",
}


# stdout is for results: what a network of the user's prints in its forward, or a library, goes to stderr.

_kept: list[TextIO] = []  # where results go; the last counts


def results() -> TextIO:
    """The stream that results are written to."""
    return _kept[-1] if _kept else sys.stdout


def columns() -> int:
    """Characters in a line of the results, on a terminal."""
    return Console(file=results()).width


@contextlib.contextmanager
def for_results_alone() -> Iterator[None]:
    """A block in which stdout has the results of this module alone; whatever else is printed goes to stderr.

    That is all of Python, and where stdout is the process's own also what lies below it and the processes
    that are started meanwhile. Raises `BrokenPipeError` when the reader of the results is gone.
    """
    own = _own_stdout()
    _kept.append(own or sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        _kept[-1].flush()
    finally:
        _kept.pop()
        if own is not None:
            sys.stdout.flush()  # what was written to it by another name than sys.stdout
            os.dup2(own.fileno(), _STDOUT)
            with contextlib.suppress(OSError):  # told by the flush above
                own.close()


_STDOUT, _STDERR = 1, 2


def _own_stdout() -> TextIO | None:
    """The process's stdout under another number, while the old one leads to stderr; None for any other."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or made of something else
        sys.stdout.flush()
        if sys.stdout.fileno() == _STDOUT:
            own = os.dup(_STDOUT)
            try:
                os.dup2(_STDERR, _STDOUT)
            except OSError:
                os.close(own)
                raise
            return os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    return None


def document(content: Any) -> None:
    """One JSON document."""
    results().write(in_json(json_module.dumps(content, indent=2, ensure_ascii=False)) + "\n")


def text(content: str) -> None:
    """Text as it is, but for what a terminal would obey."""
    results().write(visible(content if content.endswith("\n") else content + "\n"))


@contextlib.contextmanager
def redirected(path: Path | None) -> Iterator[None]:
    """The results of the block go to the file `path`, whole or not at all; None: to stdout.

    Raises `InputError` when the file cannot be written.
    """
    if path is None:
        yield
        return
    written = io.StringIO()
    _kept.append(written)
    try:
        yield
    finally:
        _kept.pop()
    try:
        files.write_text(path, written.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def page(run: Path) -> None:
    """Where the report of a run is and how to use its network, on stderr; nothing of what is not there."""
    if (run / "report.html").is_file():
        note(f"The report is {run / 'report.html'}")
    script = run / "export" / "run.py"
    if script.is_file():
        note(f"To classify an image: python {shlex.quote(str(script))} IMAGE")


def closing(run: Path, stage: str) -> None:
    """Where the results of a stage are, and the command that goes on from them, on stderr."""
    note(f"Everything is in {run}; next: jstc {_FOLLOWING[stage]} {shlex.quote(str(run))}")


def note(content: str) -> None:
    """A remark for the reader, on stderr."""
    print(visible(content), file=sys.stderr)


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
    shown = Table(box=box.SIMPLE_HEAD, show_header=any(header), pad_edge=False)
    for index, name in enumerate(header):
        right = index in numbers
        whole = right or (whole_names and index == 0)
        title = escape(visible(name))
        shown.add_column(title, justify="right" if right else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        shown.add_row(*(escape(visible(cell)) for cell in row))
    console = Console(file=results(), highlight=False)
    if console.is_terminal:
        console.print(shown)
        return
    # A pipe has no width: nothing may be wrapped or cut there, nor padded.
    console = Console(file=results(), highlight=False, width=1000)
    with console.capture() as captured:
        console.print(shown)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    text("\n".join(line for line in lines if line))


def label(stage: str, key: str) -> str:
    """What a figure of a stage is called."""
    # The search is judged on images of its own; every other accuracy is on the test split.
    if (stage, key) == ("search", "accuracy"):
        return "accuracy (search-validation split)"
    return _LABELS.get(key, key.replace("_", " "))
