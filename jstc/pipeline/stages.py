"""The stages of a run: their order, what each needs, and the few lines that call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jstc.pipeline import emitting, training
from jstc.pipeline.context import StageContext
from jstc.recipe import Recipe

__all__ = ["Stage", "table"]


@dataclass(frozen=True)
class Stage:
    """A stage by name; `inputs` are the stages it builds on, `loose` its files outside its own folder.

    `run` returns figures for the stage's result.json, or None when there is to be none.
    """

    name: str
    run: Callable[[StageContext], dict[str, Any] | None]
    inputs: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()


def table(recipe: Recipe) -> list[Stage]:
    """The stages that `recipe` asks for, in order."""
    baseline = ("baseline",) if recipe.baseline else ()
    stages = [
        Stage("baseline", training.baseline),
        Stage("search", training.search, (), ("target.json",)),
        Stage("finetune", training.finetune, ("search",)),
        Stage("slim", emitting.slim, ("finetune",)),
        Stage("export", emitting.export, ("slim",)),
        Stage("bench", emitting.bench, ("export", *baseline)),
        Stage("report", emitting.report, ("bench", *baseline), ("summary.json", "report.md")),
    ]
    return [stage for stage in stages if stage.name != "baseline" or recipe.baseline]
