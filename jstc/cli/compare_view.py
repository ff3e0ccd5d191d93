"""Where the outcome of `jstc compare` goes: the terminal, files, and GitHub Actions when it runs us."""

from __future__ import annotations

import os
from pathlib import Path

from jstc import gate
from jstc.cli import console
from jstc.core import files
from jstc.errors import InputError
from jstc.gate import GateReport

__all__ = ["failure", "show", "write"]


def show(found: GateReport, *, as_json: bool, quiet: bool) -> None:
    """The gates on stdout, as a table or as JSON; remarks on stderr."""
    if as_json:
        console.document(found.to_dict())
    else:
        # A table for each budget: its name in every row would not leave enough for the figures.
        for budget in dict.fromkeys(one.budget for one in found.gates):
            rows = gate.rows([g for g in found.gates if g.budget == budget], with_budget=False)
            console.table((budget or "gate", *gate.HEADER[1:]), rows, numbers_from=1, numbers_to=5)
    if quiet or as_json:
        return
    for remark in gate.remarks(found):
        console.note(remark)
    if not found.failures:
        console.note(gate.headline(found))


def write(found: GateReport, *, markdown: Path | None, junit: Path | None) -> None:
    """The files that were asked for; in GitHub Actions the job's summary and the annotations."""
    for path, content in (
        (markdown, gate.markdown(found).encode()),
        (junit, gate.junit(found)),
    ):
        if path is not None:
            _write(path, content)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        _append(Path(summary), gate.markdown(found))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # The runner reads both streams; stdout is for results.
        for line in gate.workflow_commands(found):
            console.note(line)


def failure(found: GateReport) -> str:
    """The message of the gates that say no."""
    return "\n".join([gate.headline(found), *(f"  {gate.line(failed)}" for failed in found.failures)])


def _write(path: Path, content: bytes) -> None:
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
