"""The stages of a run: their order, what each needs, and the few lines that call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jstc.recipe.schema import Recipe
from jstc.runs.stages import bench, export, report, slim, train
from jstc.runs.workspace import StageContext

__all__ = ["Stage", "builds_on", "built_on", "names", "table"]


@dataclass(frozen=True)
class Stage:
    """A stage by name; `inputs` are the stages it builds on, `loose` its files outside its own folder.

    `run` returns figures for the stage's result.json, or None when there is to be none. The folder of a
    `nested` stage is a run directory, which keeps a record of its own.
    """

    name: str
    run: Callable[[StageContext], dict[str, Any] | None]
    inputs: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    nested: bool = False


def table(recipe: Recipe) -> list[Stage]:
    """The stages that `recipe` asks for, in order."""
    baseline = ("baseline",) if recipe.baseline else ()
    stages = [
        Stage("baseline", train.baseline),
        Stage("search", train.search, (), ("target.json",)),
        Stage("finetune", train.finetune, ("search",)),
        Stage("slim", slim.slim, ("finetune",)),
        Stage("export", export.export, ("slim",)),
        Stage("bench", bench.bench, ("export", *baseline)),
        Stage("report", report.report, ("bench", *baseline), report.FILES),
    ]
    return [stage for stage in stages if stage.name != "baseline" or recipe.baseline]


def names(table: Sequence[Stage]) -> list[str]:
    """The names of the stages."""
    return [stage.name for stage in table]


def built_on(table: Sequence[Stage], name: str) -> list[str]:
    """Names of the stages that need `name`, directly or by way of others, last first."""
    found = {name}
    for stage in table:
        if found & set(stage.inputs):
            found.add(stage.name)
    return [stage.name for stage in reversed(table) if stage.name in found - {name}]


def builds_on(table: Sequence[Stage], last: Stage) -> list[Stage]:
    """The stages that `last` needs, directly or by way of others, first one first."""
    found = set(last.inputs)
    for stage in reversed(table):
        if stage.name in found:
            found |= set(stage.inputs)
    return [stage for stage in table if stage.name in found]
