"""jstc from Python: `jstc.search` runs search, finetune and slim on a network and data in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from jstc import slim
from jstc.core import files, processes
from jstc.core.progress import Progress
from jstc.errors import BudgetError, StageError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs import commands, workers
from jstc.runs.given import GivenWorkspace

__all__ = ["SearchResult", "search"]

_STAGES = ("search", "finetune", "slim")


@dataclass(frozen=True)
class SearchResult:
    """What a search gave: the slim network, trained, and its figures.

    `accuracy` is a fraction on the validation data; `flops` counts one multiply-add as one.
    """

    network: nn.Module
    plan: Plan
    accuracy: float
    flops: int
    params: int
    path: Path


def search(
    model: nn.Module,
    train_data: Any,
    val_data: Any,
    *,
    out: str | Path,
    flops: float | str | None = None,
    params: float | str | None = None,
    settings: Sequence[str] = (),
    fresh: bool = False,
    progress: Progress | None = None,
) -> SearchResult:
    """Search the best sub-network of `model` at a budget, train it, and return it without gates.

    `train_data` and `val_data` are torch Datasets with pairs of an image tensor [C, H, W] and a class number,
    or `Split`s of jstc. `settings` are recipe keys such as `"search.rounds=20"` or `"seed=1"`. `model` starts
    from the weights that it has, and is left as it is; where these are trained, give the keys of
    `jstc.recipe.schema.GIVEN_WEIGHTS` as settings, which a recipe with `weights` has by itself. The same call
    again continues what is in `out`.
    Under torchrun every process makes the same call. Raises an `InputError` for what is wrong, before any
    training.
    """
    kind = f"{type(model).__module__}:{type(model).__qualname__}"
    flags = {"model": kind, "dataset": "given", "flops": flops, "params": params}
    recipe = loading.from_flags(flags, settings)
    if len(recipe.budgets) > 1:
        raise BudgetError(
            "jstc.search takes one budget, for one network; give several to `jstc search` or in a recipe"
        )
    workspace, path = GivenWorkspace(recipe, model, train_data, val_data), Path(out)
    if processes.follows():
        if commands.follow(workspace):
            raise StageError("process 0 has broken off, and says why")
    else:
        with workers.as_rank_zero():
            commands.run(recipe, out=path, only=_STAGES, workspace=workspace, fresh=fresh, progress=progress)
    result, plan = files.read_json(path / "slim" / "result.json"), Plan.load(path / "search" / "plan.json")
    return SearchResult(
        network=slim.load(path / "slim", target=workspace.structure(), plan=plan),
        plan=plan,
        accuracy=result["accuracy"],
        flops=result["flops"],
        params=result["params"],
        path=path,
    )
