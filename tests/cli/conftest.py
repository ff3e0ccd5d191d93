"""The command line, called in process: exit code, stdout and stderr of one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jstc.cli import main


class Called(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def jstc_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Called]:
    """Calls `jstc` with words, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*words: object) -> Called:
        arguments = [str(word) for word in words]
        monkeypatch.setattr("sys.argv", ["jstc", *arguments])
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        captured = capsys.readouterr()
        code = caught.value.code
        return Called(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call
