"""The run directory: one run, one process at a time, every stage's state and files on record.

recipe.yaml    the full recipe as run
manifest.json  versions, seed, command, stage states, sha256 of every artifact
.lock          held by the process at work; the system releases it when the process dies
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

from jstc.core import files
from jstc.core.files import held
from jstc.errors import RecipeError, RunDirectoryError, near_names
from jstc.recipe.amounts import budget_label
from jstc.recipe.loading import Changes, load, to_yaml
from jstc.recipe.schema import Recipe
from jstc.runs import guard
from jstc.runs.manifest import Manifest, StageRecord, State
from jstc.runs.settings import (
    changed_sections,
    refuse_other_run,
    with_keys_without_effect,
    with_stored_sections,
)

__all__ = [
    "RunDirectory",
    "default_path",
    "locked",
    "newest_run",
    "no_run",
    "read_recipe",
    "recorded",
    "require_same",
]

# One process per run directory. The lock is the operating system's, so a killed process leaves none.

_LOCK = ".lock"
_HOLDER = ".lock-holder.json"  # beside the lock: a locked file cannot be read on every platform


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`, creating the directory if need be.

    Raises `RunDirectoryError` at once when another process holds it, or when it cannot be written.
    """
    guard.refuse_link(directory / _LOCK)  # locking empties the file
    lock = filelock.FileLock(directory / _LOCK, timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise RunDirectoryError(
            f"{directory} is in use by {_holder(directory)}",
            "wait for it or stop it, or use another directory",
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {directory}: {error.strerror or error}") from None
    try:
        with held(directory, directory / _LOCK):
            files.write_json(directory / _HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
    finally:
        with contextlib.suppress(OSError):
            (directory / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(directory: Path) -> str:
    try:
        holder = files.read_json(directory / _HOLDER)
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return "another process"


ROOT = Path("runs")


class RunDirectory:
    """An open run directory; get one from `RunDirectory.open`."""

    def __init__(self, path: Path, recipe: Recipe, manifest: Manifest) -> None:
        self.path = path
        self.recipe = recipe
        self.manifest = manifest
        self.changed: dict[str, Changes] = {}
        self.for_stages: Collection[str] = ()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: Path,
        recipe: Recipe,
        *,
        stages: Sequence[str],
        command: str,
        fresh: bool = False,
        for_stages: Collection[str] = (),
        renew: Collection[str] = (),
    ) -> Iterator[RunDirectory]:
        """Create the directory, or continue the run in it, and hold its lock.

        `fresh` deletes what the run has made before. The command is `for_stages`. A run that exists keeps its
        settings of the last stages but for the sections that the command may `renew` (see
        `settings.RENEWABLE`): `recipe` is then what to go by, `changed` says what is new in it, and
        `adopt_recipe` puts it on file. Raises `RunDirectoryError` when another process holds the directory,
        when it is not a run of jstc, when it belongs to another recipe, or when a link in it leads out;
        nothing is deleted then.
        """
        _refuse_foreign(path)
        with locked(path):
            guard.require_own(path)
            manifest = Manifest.load(path)
            if manifest is not None and not fresh and (path / "recipe.yaml").exists():
                refuse_other_run(path, read_recipe(path), recipe, manifest.begun_with, renew=renew)
                guard.delete_leftovers(path, {*stages, *manifest.stages})
                yield cls._continued(path, recipe, manifest, for_stages, renew)
                return
            names = {*stages, *(manifest.stages if manifest else ())}
            _refuse_busy(path, names)
            manifest = Manifest.new(command, recipe.seed, stages)
            manifest.save(path)  # first: from here on the directory is known as ours
            guard.delete_results(path, names)
            files.write_text(path / "recipe.yaml", to_yaml(recipe))
            yield cls(path, recipe, manifest)

    @classmethod
    def _continued(
        cls,
        path: Path,
        recipe: Recipe,
        manifest: Manifest,
        for_stages: Collection[str],
        renew: Collection[str],
    ) -> RunDirectory:
        stored = _with_new_keys(path, recipe)
        found = cls(path, with_stored_sections(recipe, stored, renew=renew), manifest)
        found.for_stages = for_stages
        found.changed = changed_sections(stored, found.recipe)
        return found

    def adopt_recipe(self) -> None:
        """Put `recipe` on file, once nothing is left that was made with other settings."""
        if self.changed:
            self._remember_begun(self.changed.get("finetune", {}))
            files.write_text(self.path / "recipe.yaml", to_yaml(self.recipe))
            self.changed = {}

    def _remember_begun(self, changed: Changes) -> None:
        """Keep on the record what the search has read of settings that are about to be others."""
        begun: dict[str, Any] = self.manifest.begun_with
        for key, (before, after) in changed.items():
            begun.setdefault(key, before)
            if begun[key] == after:
                del begun[key]
        if changed:
            self.manifest.save(self.path)

    def folder(self, stage: str) -> Path:
        """Where `stage` writes."""
        return self.path / stage

    def record(self, stage: str) -> StageRecord:
        """State, seconds and artifacts of `stage`."""
        return self.manifest.stages.setdefault(stage, StageRecord())

    def begin(self, stage: str) -> None:
        """`stage` starts, or goes on after an interruption."""
        self._set(stage, "running")

    def spend(self, stage: str, seconds: float) -> None:
        """Put `seconds` of work on the record of `stage`."""
        self.record(stage).seconds += seconds
        self.manifest.save(self.path)

    def fail(self, stage: str) -> None:
        """`stage` stopped before its end; its checkpoints stay."""
        self._set(stage, "failed")

    def finish(self, stage: str, artifacts: Sequence[Path]) -> None:
        """`stage` is done and has written `artifacts`."""
        hashes = {path.relative_to(self.path).as_posix(): files.sha256(path) for path in sorted(artifacts)}
        self.record(stage).artifacts = hashes
        self._set(stage, "done")

    def reset(self, stage: str) -> None:
        """Forget `stage` and delete what it wrote."""
        artifacts = self.record(stage).artifacts
        self.forget(stage)
        guard.delete_stage(self.path, stage, artifacts)

    def forget(self, stage: str) -> None:
        """Take `stage` for one that has not begun; what it wrote stays."""
        if stage == "search":
            self.manifest.begun_with = {}  # the next one reads the recipe as it is now
        self.manifest.stages[stage] = StageRecord()
        self.manifest.save(self.path)

    def is_done(self, stage: str) -> bool:
        """Whether `stage` has finished; its files are not looked at."""
        return self.record(stage).state == "done"

    def damaged(self, stage: str) -> list[str]:
        """Artifacts of `stage` that are missing or no longer what the stage wrote."""
        return [name for name, sha in self.record(stage).artifacts.items() if not self._intact(name, sha)]

    def _intact(self, name: str, sha: str) -> bool:
        path = self.path / name
        return path.is_file() and files.sha256(path) == sha

    def _set(self, stage: str, state: State) -> None:
        self.record(stage).state = state
        self.manifest.save(self.path)


def default_path(recipe: Recipe, root: Path = ROOT) -> Path:
    """`runs/<model>-<dataset>-<budgets>[-seedN]`: the same settings find the same directory."""
    name = f"{recipe.model}-{recipe.dataset}-{budget_label(*recipe.budgets)}"
    if recipe.seed:
        name += f"-seed{recipe.seed}"
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in name)
    return root / safe.lstrip(".-")[:120]


def newest_run(root: Path = ROOT, *, say: Callable[[str], None]) -> Path:
    """The run under `root` that was worked on last; `say` is told which ones are left out, and why.

    Those are of another version of jstc, or damaged. Raises `RunDirectoryError` when there is no other.
    """
    runs = []
    for path in sorted(root.glob("*/manifest.json")):
        try:
            if Manifest.load(path.parent) is not None:
                runs.append(path.parent)
        except RunDirectoryError as error:
            say(f"{path.parent} is left out: {error.problem}")
    if not runs:
        raise RunDirectoryError(
            f"no runs under {root}/; start one with `jstc run RECIPE`, or name a run directory"
        )
    return max(runs, key=lambda path: (path / "manifest.json").stat().st_mtime_ns)


def no_run(path: Path) -> RunDirectoryError:
    """Error for a run directory that is not there, with near names beside it and under `ROOT`."""
    folders = dict.fromkeys((path.parent, ROOT))
    found = [manifest.parent for folder in folders for manifest in sorted(folder.glob("*/manifest.json"))]
    beside = {run.name: run for run in reversed(found)}
    near = " or ".join(str(beside[name]) for name in near_names(path.name, beside))
    return RunDirectoryError(f"no run directory at {path}", f"did you mean {near}?" if near else "")


def read_recipe(path: Path) -> Recipe:
    """The recipe of the run at `path`. Raises `RunDirectoryError` when there is no run."""
    if not path.exists():
        raise no_run(path)
    if Manifest.load(path) is None or not (path / "recipe.yaml").exists():
        raise RunDirectoryError(f"{path} is not a run directory (it has no manifest.json and recipe.yaml)")
    try:
        return load(path / "recipe.yaml")
    except RecipeError as error:
        problem = f"the recipe of the run was changed or is of another version: {error.problem}"
        raise RunDirectoryError(problem, error.advice, details=error.details) from None


def recorded(path: Path) -> list[Path]:
    """The files that the stages of the run at `path` have left."""
    manifest = Manifest.load(path)
    records = manifest.stages.values() if manifest else ()
    return [path / name for record in records for name in record.artifacts]


def require_same(path: Path, recipe: Recipe, *, renew: Collection[str]) -> None:
    """Raise `RunDirectoryError` unless a run of `recipe` can begin or go on at `path`.

    Sections in `renew` may be others than the run has.
    """
    _refuse_foreign(path)
    manifest = Manifest.load(path)
    if manifest is not None and (path / "recipe.yaml").exists():
        refuse_other_run(path, read_recipe(path), recipe, manifest.begun_with, renew=renew)


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file", "a run needs a directory: name another")
    if not path.is_dir() or Manifest.load(path) is not None:
        return
    # A process killed just after it took the lock leaves hidden files only.
    if any(not entry.name.startswith((".lock", ".tmp-")) for entry in path.iterdir()):
        raise RunDirectoryError(
            f"{path} has files in it and is not a run directory of jstc (no manifest.json of ours)",
            "name another directory",
        )


def _with_new_keys(path: Path, recipe: Recipe) -> Recipe:
    """The recipe on file, with what `recipe` has for keys without effect, which it then has on file."""
    stored = read_recipe(path)
    found = with_keys_without_effect(stored, recipe)
    if found != stored:
        files.write_text(path / "recipe.yaml", to_yaml(found))
    return found


def _refuse_busy(path: Path, stages: set[str]) -> None:
    """A folder of ours may be a run of its own, which another process is working on."""
    for stage in stages:
        if (path / stage / "manifest.json").exists():
            with locked(path / stage):
                pass
