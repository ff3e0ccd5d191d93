"""The run directory: one run, one process at a time, every stage's state and files on record.

recipe.yaml    the full recipe as run
manifest.json  versions, seed, command, stage states, sha256 of every artifact
.lock          held by the process at work; the system releases it when the process dies
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from jstc import files
from jstc.errors import RecipeError, RunDirectoryError
from jstc.pipeline import deletion, late_settings, links
from jstc.pipeline.lock import locked
from jstc.pipeline.manifest import Manifest, StageRecord, State
from jstc.recipe import Recipe
from jstc.recipe_file import load, to_yaml

__all__ = ["RunDirectory", "default_path", "holds", "newest_run", "read_recipe", "recorded", "require_same"]

ROOT = Path("runs")
_MAX_DIFFERENCES = 8


class RunDirectory:
    """An open run directory; get one from `RunDirectory.open`."""

    def __init__(self, path: Path, recipe: Recipe, manifest: Manifest) -> None:
        self.path = path
        self.recipe = recipe
        self.manifest = manifest
        self.changed: dict[str, list[str]] = {}
        self.about: Collection[str] = ()

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
        about: Collection[str] = (),
    ) -> Iterator[RunDirectory]:
        """Create the directory, or continue the run in it, and hold its lock.

        `fresh` deletes what the run has made before. A run that exists keeps its settings of the late stages
        (see `late_settings`), except for those stages that the command is `about`: `recipe` is then what to
        go by, `changed` says what is new in it, and `adopt_recipe` puts it on file. Raises
        `RunDirectoryError` when another process holds the directory, when it is not a run of jstc, when it
        belongs to another recipe, or when a link in it leads out.
        """
        _refuse_foreign(path)
        links.refuse_one(path / ".lock", path)  # locking empties the file
        with locked(path):
            manifest = Manifest.load(path)
            if manifest is not None and not fresh and (path / "recipe.yaml").exists():
                _refuse_other_recipe(path, recipe)
                links.refuse(path)
                deletion.delete_leftovers(path)
                yield cls._continued(path, recipe, manifest, about)
                return
            names = {*stages, *(manifest.stages if manifest else ())}
            _refuse_busy(path, names)
            manifest = Manifest.new(command, recipe.seed, stages)
            manifest.save(path)  # first: from here on the directory is known as ours
            deletion.delete_results(path, names)
            files.write_text(path / "recipe.yaml", to_yaml(recipe))
            yield cls(path, recipe, manifest)

    @classmethod
    def _continued(
        cls, path: Path, recipe: Recipe, manifest: Manifest, about: Collection[str]
    ) -> RunDirectory:
        stored = _with_free_settings(path, recipe)
        found = cls(path, late_settings.merged(recipe, stored, about=about), manifest)
        found.about = about
        found.changed = late_settings.changed(stored, found.recipe)
        return found

    def adopt_recipe(self) -> None:
        """Put `recipe` on file, once nothing is left that was made with other settings."""
        if self.changed:
            files.write_text(self.path / "recipe.yaml", to_yaml(self.recipe))
            self.changed = {}

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
        for name in artifacts:
            (self.path / name).unlink(missing_ok=True)
        deletion.delete_folder(self.folder(stage))

    def forget(self, stage: str) -> None:
        """Take `stage` for one that has not begun; what it wrote stays."""
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
    """`runs/<model>-<dataset>-<metric><amounts>[-seedN]`: the same settings find the same directory."""
    metric, _ = recipe.budgets[0]
    amounts = "-".join(label.removeprefix(metric) for label in recipe.labels)
    name = f"{recipe.model}-{recipe.dataset}-{metric}{amounts}"
    if recipe.seed:
        name += f"-seed{recipe.seed}"
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in name)
    return root / safe.lstrip(".-")[:120]


def newest_run(root: Path = ROOT) -> Path:
    """The run under `root` that was worked on last. Raises `RunDirectoryError` when there is none."""
    runs = [path.parent for path in root.glob("*/manifest.json") if Manifest.load(path.parent) is not None]
    if not runs:
        raise RunDirectoryError(
            f"no runs under {root}/; start one with `jstc run RECIPE`, or name a run directory"
        )
    return max(runs, key=lambda path: (path / "manifest.json").stat().st_mtime_ns)


def holds(file: Path) -> bool:
    """Whether `file` lies directly in a run directory, damaged ones included."""
    try:
        return Manifest.load(file.resolve().parent) is not None
    except RunDirectoryError:
        return True


def read_recipe(path: Path) -> Recipe:
    """The recipe of the run at `path`. Raises `RunDirectoryError` when there is no run."""
    if not path.exists():
        raise RunDirectoryError(f"no run directory at {path}")
    if Manifest.load(path) is None or not (path / "recipe.yaml").exists():
        raise RunDirectoryError(f"{path} is not a run directory (it has no manifest.json and recipe.yaml)")
    try:
        return load(path / "recipe.yaml")
    except RecipeError as error:
        raise RunDirectoryError(
            f"the recipe of the run was changed or is of another version: {error}"
        ) from None


def recorded(path: Path) -> list[Path]:
    """The files that the stages of the run at `path` have left."""
    manifest = Manifest.load(path)
    records = manifest.stages.values() if manifest else ()
    return [path / name for record in records for name in record.artifacts]


def require_same(path: Path, recipe: Recipe) -> None:
    """Raise `RunDirectoryError` unless a run of `recipe` can begin or go on at `path`."""
    _refuse_foreign(path)
    if Manifest.load(path) is not None and (path / "recipe.yaml").exists():
        _refuse_other_recipe(path, recipe)


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file; a run needs a directory: name another")
    if not path.is_dir() or Manifest.load(path) is not None:
        return
    # A process killed just after it took the lock leaves hidden files only.
    if any(not entry.name.startswith((".lock", ".tmp-")) for entry in path.iterdir()):
        raise RunDirectoryError(
            f"{path} has files in it and is not a run directory of jstc (no manifest.json of ours); "
            "name another directory"
        )


def _refuse_other_recipe(path: Path, recipe: Recipe) -> None:
    found = late_settings.other_settings(read_recipe(path), recipe)
    if not found:
        return
    if len(found) > _MAX_DIFFERENCES:
        found[_MAX_DIFFERENCES:] = [f"... and {len(found) - _MAX_DIFFERENCES} more"]
    raise RunDirectoryError(
        f"{path} belongs to a run with other settings:\n  " + "\n  ".join(found) + "\n"
        "start over with --fresh, write elsewhere with --out DIR, or go back to the old settings"
    )


def _with_free_settings(path: Path, recipe: Recipe) -> Recipe:
    """The recipe on file, with the free settings of `recipe`: commands that only name the run need them."""
    stored = read_recipe(path)
    found = late_settings.with_free(stored, recipe)
    if found != stored:
        files.write_text(path / "recipe.yaml", to_yaml(found))
    return found


def _refuse_busy(path: Path, stages: set[str]) -> None:
    """A folder of ours may be a run of its own, which another process is working on."""
    for stage in stages:
        if (path / stage / "manifest.json").exists():
            with locked(path / stage):
                pass
