"""The chain of stages: which have to run, in which order, and what is kept when one stops."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jstc import files
from jstc.errors import Interrupted, RunDirectoryError, StageError
from jstc.pipeline import preflight, stages
from jstc.pipeline.context import StageContext
from jstc.pipeline.interruption import interruptible
from jstc.pipeline.run_directory import RunDirectory, default_path, read_recipe
from jstc.pipeline.stages import Stage
from jstc.pipeline.timing import Stopwatch
from jstc.pipeline.workspace import Workspace
from jstc.progress import Progress, Silent
from jstc.recipe import Recipe

__all__ = ["run", "run_stage", "write_report"]


def run(
    recipe: Recipe,
    *,
    out: Path | None = None,
    only: Collection[str] = (),
    workspace: Workspace | None = None,
    fresh: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Path:
    """Run the stages of `recipe` in order, continuing what is there; `only` names those to run, if not all.

    Returns the run directory. Raises `InputError` before any work, `Interrupted` with the `command` that
    continues the run, and `StageError` when a stage cannot do its work.
    """
    path = out or default_path(recipe)
    workspace = workspace or Workspace(recipe)
    preflight.check(workspace, path)
    table = stages.table(recipe)
    names = [stage.name for stage in table]
    wanted = [stage for stage in table if not only or stage.name in only]
    with RunDirectory.open(path, recipe, stages=names, command=command, fresh=fresh) as opened:
        chain = _Chain(opened, workspace, progress or Silent(), command)
        chain.run(wanted)
    return path


def run_stage(
    path: Path,
    name: str,
    *,
    recipe: Recipe,
    fresh: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> None:
    """Run one stage of the run at `path`, whose recipe is `recipe`, after what it needs and is missing.

    Nothing happens when it is done. `fresh` runs it again, and makes the stages that build on it pending.
    Raises `RunDirectoryError` when the search is missing or unfinished, or a file that is needed damaged.
    """
    workspace = Workspace(recipe)
    table = stages.table(recipe)
    stage = next(stage for stage in table if stage.name == name)
    with RunDirectory.open(path, recipe, stages=[stage.name for stage in table], command=command) as opened:
        chain = _Chain(opened, workspace, progress or Silent(), command)
        missing = chain.missing_before(stage)
        if fresh:
            chain.reset(name)
        if missing or not opened.is_done(name):
            preflight.check(workspace, path)
        chain.run_first(missing)
        chain.run([stage])


def write_report(path: Path) -> None:
    """Write summary.json and report.md of the run at `path`, if the stages before the report are done."""
    recipe = read_recipe(path)
    table = stages.table(recipe)
    with RunDirectory.open(path, recipe, stages=[stage.name for stage in table], command="") as opened:
        if all(opened.is_done(name) for name in table[-1].inputs):
            _Chain(opened, Workspace(recipe), Silent(), "").run(table[-1:])


class _Chain:
    def __init__(self, opened: RunDirectory, workspace: Workspace, progress: Progress, command: str) -> None:
        self._run, self._workspace, self._progress, self._command = opened, workspace, progress, command
        self._table = stages.table(workspace.recipe)

    def run(self, wanted: Sequence[Stage]) -> None:
        """Run those of `wanted` that are not done, or whose files are damaged."""
        for stage in wanted:
            damaged = self._run.damaged(stage.name)
            if damaged:
                self._progress.message(
                    f"{stage.name}: {_names(damaged)} missing or changed; running it again"
                )
                self.reset(stage.name)
            if not self._run.is_done(stage.name):
                self._reset_later(stage.name)
                self._work(stage)

    def run_first(self, missing: Sequence[Stage]) -> None:
        """Run the stages that another one needs, and say so of each before it starts."""
        for stage in missing:
            begun = self._run.record(stage.name).state != "pending"
            text = "is unfinished: continuing it first" if begun else "has not run yet: running it first"
            self._progress.message(f"{stage.name} {text}")
            self.run([stage])

    def missing_before(self, stage: Stage) -> list[Stage]:
        """The stages that `stage` builds on, directly or not, and that are not done.

        Raises `RunDirectoryError` when the search is among them, which only its own command continues, or
        when what these stages and `stage` itself read is damaged.
        """
        missing = [earlier for earlier in _builds_on(self._table, stage.name) if not self._done(earlier)]
        if any(earlier.name == "search" for earlier in missing):
            raise RunDirectoryError(
                f"{stage.name} needs the search first, which is {self._run.record('search').state}: "
                f"{self._how_to_make('search')}"
            )
        for name in dict.fromkeys(name for reader in (*missing, stage) for name in reader.inputs):
            damaged = self._run.damaged(name)
            if damaged:
                text = f"{_names(damaged)} in {self._run.path} is missing or changed"
                raise RunDirectoryError(f"{text}: {self._how_to_make(name)}")
        return missing

    def _done(self, stage: Stage) -> bool:
        return self._run.is_done(stage.name)

    def _how_to_make(self, name: str) -> str:
        path, begun_with = self._run.path, self._run.manifest.command
        # The first two have no command that takes a run directory.
        if name == "search":
            return f"continue with `{begun_with}`" if begun_with else "continue as it was begun"
        if name == "baseline":  # the run may have begun with the search, whose command does not train it
            return f"run `jstc run {path / 'recipe.yaml'} --out {path}`"
        return f"run `jstc {name} {path} --fresh`"

    def reset(self, name: str) -> None:
        """Forget a stage and everything that was built on it."""
        self._reset_later(name)
        self._run.reset(name)

    def _reset_later(self, name: str) -> None:
        for later in _built_on(self._table, name):
            if self._run.record(later).state != "pending":
                self._run.reset(later)

    def _work(self, stage: Stage) -> None:
        name, folder = stage.name, self._run.folder(stage.name)
        watch = Stopwatch(self._run, name, self._progress)
        self._run.begin(name)
        try:
            with interruptible():
                result = stage.run(StageContext(self._workspace, self._run.path, folder, watch))
                watch.save()
        except BaseException as error:
            watch.save()
            self._run.fail(name)
            translated = _translated(error, name, self._command)
            if translated is error:
                raise
            raise translated from error
        finally:
            self._progress.finish()
        if result is not None:
            self._save_result(name, folder / "result.json", result)
        self._run.finish(name, _written(folder) + [self._run.path / loose for loose in stage.loose])

    def _save_result(self, name: str, path: Path, result: Mapping[str, Any]) -> None:
        known = files.read_json(path) if path.exists() else {}
        seconds = round(self._run.record(name).seconds, 3)
        files.write_json(path, {**known, **result, "seconds": seconds})


def _built_on(table: Sequence[Stage], name: str) -> list[str]:
    """Names of the stages that need `name`, directly or by way of others, last first."""
    found = {name}
    for stage in table:
        if found & set(stage.inputs):
            found.add(stage.name)
    return [stage.name for stage in reversed(table) if stage.name in found - {name}]


def _builds_on(table: Sequence[Stage], name: str) -> list[Stage]:
    """The stages that `name` needs, directly or by way of others, first one first."""
    found = {name}
    for stage in reversed(table):
        if stage.name in found:
            found |= set(stage.inputs)
    return [stage for stage in table if stage.name in found - {name}]


def _translated(error: BaseException, stage: str, command: str) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        text = f"interrupted during {stage}; what was finished is saved"
        return Interrupted(f"{text}. Continue with:\n  {command}" if command else text)
    if type(error).__name__ == "OutOfMemoryError":
        return StageError(
            f"{stage}: out of GPU memory; lower train.batch_size ({str(error).splitlines()[0]})"
        )
    return error


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
