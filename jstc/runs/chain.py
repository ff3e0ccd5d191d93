"""The chain of stages in one run directory: which have to run, and what is kept when one stops."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jstc.core import files, signals
from jstc.core.files import require_held
from jstc.core.progress import Progress, Silent
from jstc.data.base import GIVEN
from jstc.errors import DiskFullError, Interrupted, JstcError, RunDirectoryError, StageError
from jstc.recipe.loading import told
from jstc.runs import preflight
from jstc.runs.directory import RunDirectory, recorded
from jstc.runs.manifest import can_be_recorded, damage_as_input_error
from jstc.runs.stages import Stage, builds_on, built_on
from jstc.runs.stopwatch import Stopwatch
from jstc.runs.workspace import StageContext, Workspace

__all__ = ["Chain", "interruptions_told"]


class Chain:
    """Runs stages of `table` in an open run directory.

    `command` continues the run when it is interrupted; `title` tells this run from others of one command.
    `whole` says whether the command is over with it, or whoever runs it adds what is to come.
    """

    def __init__(
        self,
        opened: RunDirectory,
        workspace: Workspace,
        table: Sequence[Stage],
        *,
        progress: Progress,
        command: str,
        title: str = "",
        whole: bool = True,
    ) -> None:
        self.table = table
        self._whole = whole
        self._run, self._workspace = opened, workspace
        self._progress, self._command, self._title = progress, command, title
        self._announced = not title
        self._judged: set[str] = set()

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.table if stage.name == name)

    def run(self, wanted: Sequence[Stage], *, then: Sequence[Stage] = ()) -> None:
        """Run those of `wanted` that are not done, or whose files are damaged; `then` are to come after."""
        for number, stage in enumerate(wanted, 1):
            damaged = self._damaged(stage)
            if damaged or not self._run.is_done(stage.name):
                self.judge(stage)
            if damaged:
                if not stage.nested:  # it looks after its files itself, and says so
                    self._say(f"{stage.name}: {_names(damaged)} missing or changed; running it again")
                self.reset(stage.name)
            if not self._run.is_done(stage.name):
                self._reset_later(stage.name)
                later = [*wanted[number:], *then]
                self._work(stage, [one.name for one in later if not self._run.is_done(one.name)])

    def _damaged(self, stage: Stage) -> list[str]:
        """Files that a done stage left, or would leave today, and that are not as they were."""
        damaged = list(self._run.damaged(stage.name))
        if not self._run.is_done(stage.name):
            return damaged
        return damaged + [
            name for name in stage.loose if name not in damaged and not (self._run.path / name).is_file()
        ]

    def run_one(self, name: str, *, fresh: bool = False) -> None:
        """Run one stage after what it needs and is missing; `fresh` runs it although it is done.

        Raises as `missing_before` does, and an `InputError` for what is wrong, before any work.
        """
        stage = self.stage(name)
        missing = self.missing_before(stage)
        # Before anything is deleted.
        if fresh or missing or self._run.changed or self._damaged(stage) or not self._run.is_done(name):
            preflight.check(self._workspace, self._run.path)
            self.judge(missing[0] if missing else stage)
        self.renew()
        if fresh:
            self.reset(name)
        self.run_first(missing, then=[stage])
        self.run([stage])

    def run_first(self, missing: Sequence[Stage], *, then: Sequence[Stage] = ()) -> None:
        """Run the stages that those of `then` need, and say so of each before it starts."""
        for number, stage in enumerate(missing, 1):
            begun = self._run.record(stage.name).state != "pending"
            text = "is unfinished: continuing it first" if begun else "has not run yet: running it first"
            self._say(f"{stage.name} {text}")
            self.run([stage], then=[*missing[number:], *then])

    def missing_before(self, stage: Stage) -> list[Stage]:
        """The stages that `stage` builds on, directly or not, and that are not done.

        Raises `RunDirectoryError` when the search is among them, which only its own command continues, or
        when what these stages and `stage` itself read is damaged.
        """
        needed = builds_on(self.table, stage)
        missing = [earlier for earlier in needed if not self._run.is_done(earlier.name)]
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

    def judge(self, stage: Stage) -> None:
        """Find what is wrong with what `stage` is going to read, while its old results are there.

        Raises an `InputError`. Nothing is looked at where an earlier stage has to run before this one.
        """
        if (
            stage.judge is None
            or stage.name in self._judged
            or not all(self.is_intact(name) for name in stage.inputs)
        ):
            return
        run = self._run
        with damage_as_input_error(run.path):
            try:
                stage.judge(StageContext(self._workspace, run.path, run.folder(stage.name), Silent()))
            except StageError as error:
                problem = f"{stage.name} cannot work with what is in {run.path}, and has changed nothing"
                raise RunDirectoryError(
                    f"{problem}: {error.problem}",
                    "put back what was there, or run the stage that wrote it again with --fresh",
                ) from error
        self._judged.add(stage.name)

    def is_done(self, name: str) -> bool:
        """Whether a stage is done."""
        return self._run.is_done(name)

    def is_intact(self, name: str) -> bool:
        """Whether a stage is done and its files are as it left them."""
        return self._run.is_done(name) and not self._run.damaged(name)

    @property
    def has_new_settings(self) -> bool:
        """Whether `renew` is going to forget stages."""
        return bool(self._run.changed)

    def renew(self) -> None:
        """Forget the stages whose own settings are others now, and put the recipe with these on file."""
        nested = [stage.name for stage in self.table if stage.nested]
        begun = [stage for stage in self.table if stage.name in self._run.changed]
        for stage in begun[:1]:  # what comes after it is judged when it is there anew
            if self._run.record(stage.name).state != "pending":
                self.judge(stage)
        for section, found in self._run.changed.items():
            if not nested and self._run.record(section).state != "pending":
                self._say(f"{'; '.join(told(found))}: running {section} again")
            for name in nested or [section]:  # the runs of several budgets find out themselves
                self.reset(name)
        self._run.adopt_recipe()

    def reset(self, name: str) -> None:
        """Forget a stage and everything that was built on it."""
        self._reset_later(name)
        self._forget(name)

    def _how_to_make(self, name: str) -> str:
        path, begun_with = self._run.path, self._run.manifest.command
        # The first two have no command that takes a run directory.
        if name == "search":
            return f"continue with `{begun_with}`" if begun_with else "continue as it was begun"
        if name == "baseline":  # the run may have begun with the search, whose command does not train it
            return f"run `jstc run {path / 'recipe.yaml'} --out {path}`"
        if self._workspace.recipe.dataset == GIVEN:
            from jstc.runs import kept  # late, because it takes seconds

            if name not in kept.STAGES:
                return "make the same call of jstc.search again"
        return f"run `jstc {name} {path} --fresh`"

    def _reset_later(self, name: str) -> None:
        begun = [later for later in built_on(self.table, name) if self._run.record(later).state != "pending"]
        # What the command is for runs again in a moment; nested ones find out themselves what can stay.
        gone = [later for later in reversed(begun) if later not in self._run.for_stages]
        gone = [later for later in gone if self._run.is_done(later)]
        if gone and not any(stage.nested for stage in self.table):
            self._say(f"removed with the old {name}: the results of {', '.join(gone)}")
        for later in begun:
            self._forget(later)

    def _forget(self, name: str) -> None:
        if self.stage(name).nested:  # a run of its own: it finds out itself what can stay
            self._run.forget(name)
        else:
            self._run.reset(name)

    def _say(self, text: str) -> None:
        self._announce()
        self._progress.message(text)

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._progress.message(f"{self._title}:")

    def _work(self, stage: Stage, to_come: Sequence[str]) -> None:
        name, folder = stage.name, self._run.folder(stage.name)
        self._announce()
        self._judged.clear()  # of what the stage writes nothing is known yet
        workspace = self._workspace if self._whole else None
        watch = Stopwatch(self._run, name, self._progress, workspace=workspace, to_come=to_come)
        self._run.begin(name)
        try:
            with signals.interruptible():
                result = stage.run(StageContext(self._workspace, self._run.path, folder, watch))
                watch.save()
                signals.require_none_lost()
        except BaseException as error:
            require_held(self._run.path)  # whatever else it led to
            with contextlib.suppress(DiskFullError):  # the record says then that the stage is running
                watch.save()
                self._run.fail(name)
            translated = _translated(error, self._full_name(name), self._command)
            if translated is error:
                raise
            raise translated from error
        finally:
            self._progress.finish()
        if result is not None:
            self._save_result(name, folder / "result.json", result)
        written = recorded(folder) if stage.nested else _written(folder)
        self._run.finish(name, written + [self._run.path / loose for loose in stage.loose])

    def _full_name(self, stage: str) -> str:
        return f"{stage} of {self._title}" if self._title else stage

    def _save_result(self, name: str, path: Path, result: Mapping[str, Any]) -> None:
        known = files.read_json(path) if path.exists() else {}
        seconds = round(self._run.record(name).seconds, 3)
        files.write_json(path, {**known, **result, "seconds": seconds})


@contextlib.contextmanager
def interruptions_told(command: str) -> Iterator[None]:
    """A block around a chain: `Interrupted` with the `command` that continues, between its stages as well."""
    try:
        with signals.interruptible():
            yield
    except BaseException as error:
        if not _is_interruption(error):
            raise
        raise _interrupted("interrupted", command) from error


def _is_interruption(error: BaseException) -> bool:
    # After a signal, whatever else a library makes of it is no news.
    return isinstance(error, KeyboardInterrupt) or (
        signals.was_interrupted() and isinstance(error, Exception) and not isinstance(error, JstcError)
    )


def _interrupted(text: str, command: str) -> Interrupted:
    text = f"{text}; what was finished is saved"
    return Interrupted(f"{text}. Continue with:\n  {command}" if command else text)


def _translated(error: BaseException, stage: str, command: str) -> BaseException:
    if _is_interruption(error):
        return _interrupted(f"interrupted during {stage}", command)
    torch = sys.modules.get("torch")  # where it is not loaded, nothing has used a GPU
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return StageError(
            f"{stage}: out of GPU memory; lower train.batch_size ({str(error).splitlines()[0]})"
        )
    return error


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _written(folder: Path) -> list[Path]:
    """Files in the folder of a stage; not those of somebody else whose names cannot be on its record."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if can_be_recorded(path.relative_to(folder.parent).as_posix())]
