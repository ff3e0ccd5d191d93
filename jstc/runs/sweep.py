"""Several budgets: one search in the run directory, and in it one ordinary run directory for each budget."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jstc.core import files
from jstc.core.progress import Progress, Silent
from jstc.errors import RunDirectoryError
from jstc.recipe.schema import Recipe
from jstc.runs import preflight, settings, stages
from jstc.runs.chain import Chain
from jstc.runs.directory import RunDirectory, read_recipe, require_same
from jstc.runs.manifest import Manifest
from jstc.runs.stages import GIVEN, SHARED, Stage
from jstc.runs.workspace import StageContext, Workspace

__all__ = ["copy_shared_stages", "is_sweep", "run", "run_stage", "write_report"]


@dataclass(frozen=True)
class _Told:
    """Whom to tell, the command that continues, the stages that it is for, and the sections it may renew.

    None for a command that only looks.
    """

    progress: Progress
    command: str
    for_stages: Collection[str]
    renew: Collection[str] | None = None


def is_sweep(recipe: Recipe) -> bool:
    """Whether there are several budgets."""
    return len(recipe.budgets) > 1


def run(
    path: Path,
    workspace: Workspace,
    *,
    only: Collection[str] = (),
    fresh: bool = False,
    command: str = "",
    progress: Progress,
) -> None:
    """Run the shared stages, then those of every budget; or of all these only the ones named in `only`.

    Every budget has its run directory afterwards, with the search in it. Raises as `chain.run` does.
    """
    names = only or stages.names(stages.table(workspace.recipe))
    told = _Told(progress, command, names, settings.renewable(names))
    with _opened(path, workspace, told, fresh=fresh, whole=not only) as chain:
        chain.renew()
        if not only:
            chain.run(chain.table)
            return
        chain.run([stage for stage in chain.table if stage.name in SHARED and stage.name in only])
        for label in workspace.recipe.labels:
            with _child(path, workspace, label, told) as child:
                child.renew()
                child.run([s for s in child.table if s.name in only and s.name not in SHARED])


def run_stage(
    path: Path, name: str, workspace: Workspace, *, fresh: bool = False, command: str, progress: Progress
) -> None:
    """Run one stage of every budget, as `commands.run_stage` does for one."""
    told = _Told(progress, command, (name,), (name,))
    with _opened(path, workspace, told) as chain:
        again, missing = fresh or chain.has_new_settings, _missing_shared(chain, name, workspace)
        if again or missing:  # before anything is deleted
            preflight.check(workspace, path)
        labels = workspace.recipe.labels
        if not missing:
            _judge(path, workspace, name, told, labels=labels if again else ())
        chain.renew()
        if missing:
            chain.run_first(missing)
            _judge(path, workspace, name, told, labels=labels if again else ())
        for label in labels if fresh else ():
            # All of them first: an interrupted command is repeated without --fresh.
            with _child(path, workspace, label, told) as child:
                child.missing_before(child.stage(name))
                child.reset(name)
            chain.reset(label)
        for label in labels:
            with _child(path, workspace, label, told) as child:
                child.run_one(name)


def write_report(path: Path, workspace: Workspace) -> None:
    """Write the reports of the budgets whose other stages are done; and the one of all, if all are."""
    told = _Told(Silent(), "", ("report",))
    with _opened(path, workspace, told) as chain:
        needed = [name for name in SHARED if name != GIVEN and name in stages.names(chain.table)]
        if not all(chain.is_intact(name) for name in needed):
            return
        ready = []
        for label in workspace.recipe.labels:
            with _child(path, workspace, label, told) as child:
                before = [stage for stage in child.table[:-1] if stage.name != GIVEN]
                ready.append(all(child.is_intact(stage.name) for stage in before))
                child.run(child.table[-1:] if ready[-1] else ())
                complete = all(child.is_done(stage.name) for stage in before)
            # One that was complete and is not now was made anew since: the report of all is of what it was.
            if chain.is_done(label) and not complete:
                chain.reset(label)
        if all(ready):
            chain.run([stage for stage in chain.table if stage.name not in SHARED])


def _missing_shared(chain: Chain, name: str, workspace: Workspace) -> list[Stage]:
    """What a budget's stage `name` takes over and is missing. Raises as `Chain.missing_before` does."""
    table = stages.table(workspace.recipe)
    stage = next(stage for stage in table if stage.name == name)
    needed = tuple(found.name for found in stages.builds_on(table, stage) if found.name in SHARED)
    return chain.missing_before(Stage(name, stage.run, needed))


def _judge(path: Path, workspace: Workspace, name: str, told: _Told, *, labels: Collection[str]) -> None:
    """Find what is wrong with what the stage reads at each budget, while its old results are there."""
    for label in labels:
        with _child(path, workspace, label, told) as child:
            stage = child.stage(name)
            child.judge(next(iter(child.missing_before(stage)), stage))


def _table(recipe: Recipe, command: str) -> list[Stage]:
    shared = [stage for stage in stages.table(recipe) if stage.name in SHARED]
    inputs = tuple(stages.names(shared))
    each = [Stage(label, partial(_complete, command=command), inputs, nested=True) for label in recipe.labels]
    return [*shared, *each, stages.report_of_all((*inputs, *recipe.labels))]


def _complete(context: StageContext, *, command: str) -> None:
    """All stages of one budget; `context` is that of the whole."""
    path, label = context.path, context.folder.name
    names = stages.names(stages.table(context.recipe))
    told = _Told(context.progress, command, names, settings.renewable(names))
    with _child(path, context.workspace, label, told, whole=True) as child:
        child.renew()
        child.run(child.table)


@contextlib.contextmanager
def _opened(
    path: Path, workspace: Workspace, told: _Told, *, fresh: bool = False, whole: bool = False
) -> Iterator[Chain]:
    recipe = workspace.recipe
    table = _table(recipe, told.command)
    names = stages.names(table)
    with RunDirectory.open(
        path,
        recipe,
        stages=names,
        command=told.command,
        fresh=fresh,
        for_stages=told.for_stages,
        renew=told.renew or (),
    ) as opened:
        workspace.recipe = opened.recipe
        _require_children(path, opened.recipe)
        yield Chain(opened, workspace, table, progress=told.progress, command=told.command, whole=whole)


@contextlib.contextmanager
def _child(
    path: Path, workspace: Workspace, label: str, told: _Told, *, whole: bool = False
) -> Iterator[Chain]:
    """The run of one budget, with what the shared stages of the run at `path` give it."""
    alone, labels = workspace.at(label), workspace.recipe.labels
    table = stages.table(alone.recipe)
    title = f"{label} ({labels.index(label) + 1} of {len(labels)})"
    names = stages.names(table)
    with RunDirectory.open(
        path / label,
        alone.recipe,
        stages=names,
        command=told.command,
        for_stages=told.for_stages,
        renew=_renewed(path / label, alone.recipe, told),
    ) as opened:
        if opened.recipe.finetune != alone.recipe.finetune:
            told.progress.message(f"{label} keeps the finetune that it was given by itself")
        alone.recipe = opened.recipe
        chain = Chain(
            opened, alone, table, progress=told.progress, command=told.command, title=title, whole=whole
        )
        copy_shared_stages(path, opened, reset=chain.reset)
        yield chain
    workspace.take_over(alone)


def _renewed(child: Path, recipe: Recipe, told: _Told) -> Collection[str]:
    """The sections of one budget's run that the command may change: those of the run of all, and finetune's.

    In finetune it takes over what the run of all has on file, unless that is what both began with, and the
    budget was given another one by its own command.
    """
    if told.renew is None:
        return ()
    manifest = Manifest.load(child)
    if "finetune" in told.renew or manifest is None or not (child / "recipe.yaml").exists():
        return {*told.renew, "finetune"}
    begun = settings.as_begun(read_recipe(child), manifest.begun_with)
    own = manifest.begun_with and begun.finetune == recipe.finetune
    return told.renew if own else {*told.renew, "finetune"}


def _require_children(path: Path, recipe: Recipe) -> None:
    """Before any work: a folder of a budget that is damaged would stop the run after the search."""
    for label in recipe.labels:
        try:
            require_same(path / label, recipe.at(label), renew=settings.RENEWABLE)
        except RunDirectoryError as error:
            raise RunDirectoryError(
                f"{path / label} cannot go on as the run of a budget: {error.problem}. "
                "Delete it, and the same command makes it again"
            ) from None


# What the run of one budget takes over from the run that searched for several: copies, on its own record.

_LEFT_BEHIND = ("checkpoint.safetensors", "result.json")  # what only the shared training needs, or is merged


def copy_shared_stages(parent: Path, child: RunDirectory, *, reset: Callable[[str], None]) -> None:
    """Give `child` the shared stages of the run at `parent` that are done.

    What is there already stays; `reset` is called for a stage of the child that holds something else, and
    has to forget what was built on it. Every file is read whole, so that a copy is never of two searches.
    """
    manifest = Manifest.load(parent)
    assert manifest is not None
    contents = {GIVEN: _with_result(GIVEN), "baseline": _with_result("baseline"), "search": _search}
    for stage in SHARED:
        if stage in manifest.stages and manifest.stages[stage].state == "done":
            _take(child, stage, contents[stage](parent, child.path.name), reset)
    if not child.manifest.begun_with and manifest.begun_with:
        child.manifest.begun_with = dict(manifest.begun_with)
        child.manifest.save(child.path)


def _take(
    child: RunDirectory, stage: str, contents: Mapping[str, bytes], reset: Callable[[str], None]
) -> None:
    record = child.record(stage)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    same = record.state == "done" and record.artifacts == hashes
    if same and not child.damaged(stage):
        return
    if not same:
        reset(stage)
    for name, data in contents.items():
        files.write_bytes(child.path / name, data)
    child.finish(stage, [child.path / name for name in contents])


def _with_result(stage: str) -> Callable[[Path, str], dict[str, bytes]]:
    """What finds the files of a stage, its result included."""

    def found(parent: Path, _label: str) -> dict[str, bytes]:
        result = f"{stage}/result.json"
        content = files.read_bytes(parent / result, limit=files.MAX_JSON_BYTES)
        return _files(stage, parent / stage) | {result: content}

    return found


def _search(parent: Path, label: str) -> dict[str, bytes]:
    shared, own = parent / "search", parent / "search" / label
    result = files.read_json(shared / "result.json")
    figures = result.pop("budgets")
    # The shared training's time: the label's own figures say nothing of it.
    merged = result | files.read_json(own / "result.json") | figures[label] | {"seconds": result["seconds"]}
    return {
        **_files("search", shared),
        **_files("search", own),
        "search/result.json": _as_json(merged | {"shared_by": list(figures)}),
        "target.json": _as_json(_target(parent, label)),
    }


def _target(parent: Path, label: str) -> dict[str, Any]:
    document: dict[str, Any] = files.read_json(parent / "target.json")
    [budget] = [budget for budget in document["budgets"] if budget["label"] == label]
    budget = {key: value for key, value in budget.items() if key != "label"}
    return {key: value for key, value in document.items() if key != "budgets"} | {"budget": budget}


def _files(stage: str, folder: Path) -> dict[str, bytes]:
    """The files that lie directly in `folder`, by their names in the child."""
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    kept = [path for path in found if path.name not in _LEFT_BEHIND]
    return {f"{stage}/{path.name}": files.read_bytes(path, limit=path.stat().st_size) for path in kept}


def _as_json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
