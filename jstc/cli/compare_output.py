"""Where the outcome of `jstc compare` goes: the terminal, files, and GitHub Actions when it runs us."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jstc.cli import printing
from jstc.errors import InputError

if TYPE_CHECKING:
    from jstc.compare import Comparison

__all__ = ["failure", "show", "write"]


def show(found: Comparison, *, as_json: bool, quiet: bool) -> None:
    """The gates on stdout, as a table or as JSON; remarks on stderr."""
    from jstc import compare

    if as_json:
        printing.document(found.to_dict())
    else:
        # A table for each budget: its name in every row would not leave enough for the figures.
        for budget in dict.fromkeys(gate.budget for gate in found.gates):
            rows = compare.rows([g for g in found.gates if g.budget == budget], with_budget=False)
            printing.table((budget or "gate", *compare.HEADER[1:]), rows, numbers_from=1, numbers_to=5)
    if quiet or as_json:
        return
    for remark in compare.remarks(found):
        printing.note(remark)
    if not found.failures:
        printing.note(compare.headline(found))


def write(found: Comparison, *, markdown: Path | None, junit: Path | None) -> None:
    """The files that were asked for; in GitHub Actions the job's summary and the annotations."""
    from jstc import compare

    for path, content in ((markdown, compare.markdown(found).encode()), (junit, compare.junit(found))):
        if path is not None:
            _write(path, content)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        _append(Path(summary), compare.markdown(found))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # The runner reads both streams; stdout is for results.
        for line in compare.workflow_commands(found):
            printing.note(line)


def failure(found: Comparison) -> str:
    """The message of the gates that say no."""
    from jstc import compare

    return "\n".join([compare.headline(found), *(f"  {compare.line(gate)}" for gate in found.failures)])


def _write(path: Path, content: bytes) -> None:
    from jstc import files

    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory")
    try:
        files.write_bytes(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"GITHUB_STEP_SUMMARY: cannot write {path}: {error.strerror}") from None
