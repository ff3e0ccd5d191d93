"""Starting jstc as a user would: in a folder, with its output kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .renames import Renames

__all__ = ["Problem", "Recording", "Run"]

_HERE = Path(__file__).parent
_LAUNCH = str(_HERE / "launch.py")
_LOOK_EVERY = 0.005
_LIMIT = 1200.0
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_ALWAYS = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


class Problem(Exception):
    """A case that could not be recorded."""


@dataclass(frozen=True)
class Recording:
    """Where to, of which checkout, with tables and runs of which earlier recording, and new names."""

    out: Path
    code: Path
    like: Path | None
    renames: Renames

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables of every process: the checkout's jstc, one thread, a plain terminal of one width."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        own = {"PYTHONPATH": str(self.code.resolve()), "JSTC_CACHE": str(cache.resolve())}
        return {**kept, **_ALWAYS, **own}

    def source(self, case: str) -> Path:
        """An earlier case: of the recording that this one is like, or else of this one. Raises `Problem`."""
        folder = (self.like or self.out) / case
        if not (folder / "done").exists():
            raise Problem(f"needs the case '{case}' first")
        return folder


class Run:
    """One folder of a recording. What commands print is kept in files there, exit codes in `codes.json`."""

    def __init__(self, recording: Recording, case: str) -> None:
        self.recording, self.folder = recording, recording.out / case
        self._environment = recording.environment(self.folder / "cache")
        self._codes: dict[str, int] = {}

    def recipe(self) -> None:
        """Put the checkout's quickstart recipe there as `recipe.yaml`."""
        shutil.copy(self.recording.code / "recipes" / "quickstart.yaml", self.folder / "recipe.yaml")

    def copy(self, case: str, name: str, *, to: str) -> None:
        """Put a run or another folder of an earlier case there, its recipes with the new keys."""
        shutil.copytree(self.recording.source(case) / name, self.folder / to)
        renames = self.recording.renames
        for path in (self.folder / to).rglob("recipe.yaml") if renames.recipe else ():
            recipe = renames.recipe_document(yaml.safe_load(path.read_text(encoding="utf-8")))
            path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")

    def drop(self, *names: str) -> None:
        """Delete what `copy` brought."""
        for name in names:
            shutil.rmtree(self.folder / name)

    def set(self, settings: dict[str, object]) -> list[str]:
        """Options of `jstc run` for recipe keys, by their new names."""
        pairs = [f"{self.recording.renames.recipe.get(k, k)}={v}" for k, v in settings.items()]
        return [word for pair in pairs for word in ("--set", pair)]

    def jstc(self, name: str, *words: str, clock: bool = True, processes: int = 1) -> int:
        """Run a command to its end; its output is kept under `name`. Raises `Problem` after 20 minutes."""
        command = _command(words, clock=clock, processes=processes)
        where: dict[str, Any] = {"cwd": self.folder, "env": self._environment}
        try:
            done = subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False, **where)
        except subprocess.TimeoutExpired:
            raise Problem(f"not done after {_LIMIT:g} s: jstc {' '.join(words)}") from None
        kind = "json" if "--json" in words else "txt"
        for suffix, said in ((kind, done.stdout), ("err.txt", done.stderr)):
            if said:
                (self.folder / f"{name}.{suffix}").write_bytes(said)
        self._note(name, done.returncode)
        return done.returncode

    def must(self, name: str, *words: str, processes: int = 1) -> None:
        """A command without which the case is worthless. Raises `Problem` where it fails."""
        code = self.jstc(name, *words, processes=processes)
        if code:
            errors = self.folder / f"{name}.err.txt"
            said = errors.read_text(encoding="utf-8").strip()[-600:] if errors.exists() else "nothing said"
            raise Problem(f"jstc {' '.join(words)} ended with {code}: {said}")

    def broken_off(self, name: str, *words: str, by: signal.Signals, after: tuple[str, int]) -> None:
        """Start a command and send it a signal when a file has so many lines.

        Raises `Problem` when the command ends before.
        """
        file, lines = self.folder / after[0], after[1]
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(
            _command(words), cwd=self.folder, env=self._environment, stdout=quiet, stderr=quiet
        )
        deadline = time.monotonic() + _LIMIT
        while child.poll() is None and time.monotonic() < deadline:
            if file.exists() and file.read_bytes().count(b"\n") >= lines:
                child.send_signal(by)
                self._note(name, child.wait())
                return
            time.sleep(_LOOK_EVERY)
        child.kill()
        raise Problem(f"{after[0]} never had {lines} lines: jstc {' '.join(words)} ended with {child.wait()}")

    def script(self, path: str, *words: str, limit: float | None = None) -> int:
        """Run one of the scripts beside this file with the checkout's jstc; the exit code."""
        command = [sys.executable, "-P", str(_HERE / path), *words]
        done = subprocess.run(command, cwd=self.folder, env=self._environment, timeout=limit, check=False)
        return done.returncode

    def _note(self, name: str, code: int) -> None:
        self._codes[name] = code
        (self.folder / "codes.json").write_text(json.dumps(self._codes, indent=2), encoding="utf-8")


def _command(words: Sequence[str], *, clock: bool = True, processes: int = 1) -> list[str]:
    python = [sys.executable, "-P"]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return [*python, *torchrun, _LAUNCH, *words]
    return [*python, *([_LAUNCH] if clock else ["-m", "jstc"]), *words]
