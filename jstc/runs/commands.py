"""What the commands ask for: all stages of a recipe, some of them, one, or the report. No torch at import."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from jstc.core import processes
from jstc.core.progress import Progress, Silent
from jstc.data.base import GIVEN
from jstc.data.datasets import check_root
from jstc.errors import RunDirectoryError
from jstc.models import Permissions
from jstc.recipe.schema import Recipe
from jstc.runs import preflight, settings, stages, sweep
from jstc.runs.chain import Chain, interruptions_told
from jstc.runs.directory import RunDirectory, default_path, read_recipe, require_same
from jstc.runs.workspace import Workspace

__all__ = ["follow", "run", "run_stage", "try_out", "write_report"]


def run(
    recipe: Recipe,
    *,
    out: Path | None = None,
    only: Collection[str] = (),
    workspace: Workspace | None = None,
    fresh: bool = False,
    command: str = "",
    progress: Progress | None = None,
    permissions: Permissions | None = None,
) -> Path:
    """Run the stages of `recipe` in order, continuing what is there; `only` names those to run, if not all.

    Before a search, given weights are scored, whoever asks for it.
    With several budgets, each has a run directory inside this one. `permissions` says whose code may be run,
    and whether weights may be unpickled. Returns the run directory. Raises `InputError` before any work,
    `Interrupted` with the `command` that continues the run, `StageError` when a stage cannot do its work.
    """
    path = out or default_path(recipe)
    only = [stages.GIVEN, *only] if "search" in only else only
    if workspace is None:
        _refuse_given(recipe)
        workspace = Workspace(recipe, permissions)
    progress, fresh = progress or Silent(), _is_fresh(fresh)
    table = stages.table(recipe)
    names = stages.names(table)
    with interruptions_told(command):
        workspace.belongs_to(path, progress, fresh=fresh)
        workspace.to_announce = tuple(one for one in names if not only or one in only)
        preflight.check(workspace, path)
        if not only or "bench" in only:
            preflight.check_bench(recipe, path, fresh=fresh)
        if sweep.is_sweep(recipe):
            sweep.run(path, workspace, only=only, fresh=fresh, command=command, progress=progress)
            return path
        with RunDirectory.open(
            path,
            recipe,
            stages=names,
            command=command,
            fresh=fresh,
            for_stages=only or names,
            renew=settings.renewable(only or names),
        ) as opened:
            workspace.recipe = opened.recipe
            chain = Chain(opened, workspace, table, progress=progress, command=command)
            chain.renew()
            chain.run([stage for stage in table if not only or stage.name in only])
    return path


def try_out(
    recipe: Recipe,
    *,
    out: Path | None = None,
    only: Collection[str] = (),
    fresh: bool = False,
    progress: Progress | None = None,
    permissions: Permissions | None = None,
) -> list[tuple[str, str]]:
    """Check everything that `run` checks, and say what it would do; writes nothing. Raises as `run` does."""
    from jstc.runs.outline import outline

    _refuse_given(recipe)
    path = out or default_path(recipe)
    workspace = Workspace(recipe, permissions)
    workspace.only_looks = True
    workspace.belongs_to(path, progress, fresh=fresh)
    names = stages.names(stages.table(recipe))
    workspace.to_announce = tuple(one for one in names if not only or one in only)
    preflight.check(workspace, path)
    if not only or "bench" in only:
        preflight.check_bench(recipe, path, fresh=fresh)
    if not fresh:
        require_same(path, recipe, renew=settings.renewable(only or names))
    rows = outline(workspace, path, [one for one in names if not only or one in (stages.GIVEN, *only)])
    # A run says it with the score of the given network.
    told = "; ".join(note.removeprefix("weights ") for note in workspace.notes)
    return [*rows, ("weights", told)] if told else rows


def run_stage(
    path: Path,
    name: str,
    *,
    recipe: Recipe,
    fresh: bool = False,
    command: str = "",
    progress: Progress | None = None,
    permissions: Permissions | None = None,
    workspace: Workspace | None = None,
) -> None:
    """Run one stage of the run at `path`, whose recipe is `recipe`, after what it needs and is missing.

    Nothing happens when it is done. `fresh` runs it again, and makes the stages that build on it pending; so
    do settings of the stage's own in `recipe` that the run does not have yet (`settings.RENEWABLE`).
    Raises `RunDirectoryError` when the search is missing or unfinished, a file that is needed damaged, or
    settings are others that this stage cannot change.
    """
    settings.refuse_foreign(path, name, read_recipe(path), recipe)
    workspace = workspace or _workspace_for(path, name, recipe, permissions)
    progress, fresh = progress or Silent(), _is_fresh(fresh)
    with interruptions_told(command):
        if sweep.is_sweep(recipe):
            sweep.run_stage(path, name, workspace, fresh=fresh, command=command, progress=progress)
            return
        table = stages.table(recipe)
        names = stages.names(table)
        with RunDirectory.open(
            path, recipe, stages=names, command=command, for_stages=(name,), renew=(name,)
        ) as opened:
            workspace.recipe = opened.recipe
            Chain(opened, workspace, table, progress=progress, command=command).run_one(name, fresh=fresh)


def _workspace_for(path: Path, stage: str, recipe: Recipe, permissions: Permissions | None) -> Workspace:
    if recipe.dataset != GIVEN:
        return Workspace(recipe, permissions)
    from jstc.runs import given, kept

    if stage not in kept.STAGES:
        raise RunDirectoryError(
            f"{stage} needs the network and the data of {path}, which were given from Python",
            "go on there with jstc.search; export, bench and report work here",
        )
    return given.KeptWorkspace(recipe, permissions)


def _refuse_given(recipe: Recipe) -> None:
    """Before the network, which is code of a notebook then: there are no such data on the command line."""
    if recipe.dataset == GIVEN:
        check_root(recipe.dataset, recipe.data)


def follow(workspace: Workspace | None = None) -> int:
    """Do what process 0 of several asks for, task after task; returns the exit code (see `worker_loop`)."""
    from jstc.runs import evaluation, workers
    from jstc.runs.stages import given, train

    training = {
        "train_head": given.train_head,
        "score_given": given.score_given,
        "baseline": train.baseline,
        "search": train.search,
        "finetune": train.finetune,
    }
    return workers.worker_loop(training, evaluation.take_part, workspace)


def _is_fresh(asked: bool) -> bool:
    # Started anew by torchrun, the same command line goes on with what it has begun.
    return asked and not processes.restarts()


def write_report(path: Path) -> None:
    """Write summary.json and report.md of the run at `path`, if the stages before the report are done."""
    recipe = read_recipe(path)
    if sweep.is_sweep(recipe):
        sweep.write_report(path, Workspace(recipe))
        return
    table = stages.table(recipe)
    with RunDirectory.open(path, recipe, stages=stages.names(table), command="") as opened:
        # A run of an older version has the given network's accuracy elsewhere.
        if all(opened.is_done(name) for name in table[-1].inputs if name != stages.GIVEN):
            chain = Chain(opened, Workspace(recipe), table, progress=Silent(), command="")
            chain.run(table[-1:])
