"""The stages of a run: their order, what each builds on, and which function does its work.

A stage's module is loaded when the stage runs: most need torch, and a report or a wrong name is told without.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jstc.recipe.schema import Recipe
from jstc.runs.workspace import StageContext

__all__ = ["GIVEN", "SHARED", "Stage", "builds_on", "built_on", "names", "report_of_all", "table"]

GIVEN = "given"
"""The stage that scores the given network: no other needs it, so that none is lost with it."""

SHARED = (GIVEN, "baseline", "search")
"""The stages that several budgets share."""

_REPORTS = ("summary.json", "report.md", "report.html")

Result = dict[str, Any] | None
StageFunction = Callable[[StageContext], Result]


@dataclass(frozen=True)
class Stage:
    """A stage by name; `inputs` are the stages it builds on, `loose` its files outside its own folder.

    `run` returns figures for the stage's result.json, or None when there is to be none. `judge` reads what
    the stage is going to read, changes nothing, and raises what the stage would, while the results of an
    earlier run of it are still there. The folder of a `nested` stage is a run directory, which keeps a record
    of its own.
    """

    name: str
    run: StageFunction
    inputs: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    nested: bool = False
    judge: StageFunction | None = None


def table(recipe: Recipe) -> list[Stage]:
    """The stages that `recipe` asks for, in order."""
    baseline = ("baseline",) if recipe.baseline else ()
    given = (GIVEN,) if recipe.weights is not None else ()
    stages = [
        Stage(GIVEN, _late("given", "given")),
        Stage("baseline", _late("train", "baseline")),
        Stage("search", _late("train", "search"), (), ("target.json",)),
        Stage("finetune", _late("train", "finetune"), ("search",), judge=_late("inputs", "finetune")),
        Stage("slim", _late("slim", "slim"), ("finetune",), judge=_late("inputs", "slim")),
        Stage("export", _late("export", "export"), ("slim",), judge=_late("inputs", "export")),
        Stage("bench", _late("bench", "bench"), ("export", *baseline), judge=_late("inputs", "bench")),
        replace(report_of_all(("bench", *given, *baseline)), judge=_late("report", "judge")),
    ]
    left_out = {GIVEN: recipe.weights is None, "baseline": not recipe.baseline}
    return [stage for stage in stages if not left_out.get(stage.name, False)]


def report_of_all(inputs: tuple[str, ...]) -> Stage:
    """The report of several budgets, which builds on `inputs`."""
    return Stage("report", _late("report", "report"), inputs, _REPORTS)


def _late(module: str, function: str) -> StageFunction:
    """The function of that name in a module beside this one, which is loaded when it is called."""

    def run(context: StageContext) -> Result:
        found: StageFunction = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        return found(context)

    return run


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
