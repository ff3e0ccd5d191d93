"""`jstc.search`: the same run from Python, on a network and data that are in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc.errors import BudgetError, DataError, StageError
from jstc.pipeline.workspace import Workspace
from jstc.plan import Plan
from jstc.progress import Progress
from jstc.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from jstc.data import Dataset

__all__ = ["SearchResult", "search"]

_LABELS_SEEN = 128
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
    `jstc.recipe.GIVEN_WEIGHTS` as settings, which a recipe with `weights` has by itself. The same call again
    continues what is in `out`.
    Under torchrun every process makes the same call. Raises an `InputError` for what is wrong, before any
    training.
    """
    from jstc import files, ranks, recipe_file
    from jstc.pipeline import chain, team

    kind = f"{type(model).__module__}:{type(model).__qualname__}"
    flags = {"model": kind, "dataset": "given", "flops": flops, "params": params}
    recipe = recipe_file.from_flags(flags, settings)
    if len(recipe.budgets) > 1:
        raise BudgetError(
            "jstc.search takes one budget, for one network; give several to `jstc search` or in a recipe"
        )
    workspace, path = _Given(recipe, model, train_data, val_data), Path(out)
    if ranks.follows():
        _follow(workspace)
    else:
        with team.leading():
            chain.run(recipe, out=path, only=_STAGES, workspace=workspace, fresh=fresh, progress=progress)
    result = files.read_json(path / "slim" / "result.json")
    return SearchResult(
        network=workspace.load_slim(path / "slim"),
        plan=Plan.load(path / "slim" / "plan.json"),
        accuracy=result["accuracy"],
        flops=result["flops"],
        params=result["params"],
        path=path,
    )


def _follow(workspace: Workspace) -> None:
    from jstc.pipeline import following

    if following.follow(workspace):
        raise StageError("process 0 has broken off, and says why")


class _Given(Workspace):
    """A workspace whose network and data are there already."""

    def __init__(self, recipe: Recipe, model: nn.Module, train_data: Any, val_data: Any) -> None:
        from jstc.models import ModelSpec
        from jstc.pipeline.given_data import as_dataset
        from jstc.pipeline.outputs import num_scores

        super().__init__(recipe)
        self._model = model
        self.dataset = as_dataset(train_data, val_data, num_classes=1, device=self.device)
        shape = self.dataset.info.input_shape
        classes = num_scores(model, shape)
        self.dataset = as_dataset(train_data, val_data, num_classes=classes, device=self.device)
        _require_labels(self.dataset)
        self.info = self.dataset.info
        self.spec = ModelSpec(recipe.model, classes, *shape, cifar=False)

    def check_names(self) -> None:
        """There are none to look at."""

    def skeleton(self) -> nn.Module:
        """The network itself: analysing it leaves it as it is."""
        return self._model

    def new_target(self) -> nn.Module:
        """A copy of the network with the weights that it has."""
        import copy

        return copy.deepcopy(self._model).cpu()

    def load_slim(self, folder: Path) -> nn.Module:
        """The emitted network, made from the given one."""
        from jstc import slim

        return slim.rebuilt(self.new_target(), folder)


def _require_labels(dataset: Dataset) -> None:
    """Look at some labels: cross-entropy would stop at one out of range in the middle of the training."""
    classes = dataset.info.num_classes
    for name, split in (("train_data", dataset.train), ("val_data", dataset.search_val)):
        for _, labels in split.ordered(_LABELS_SEEN, limit=_LABELS_SEEN):
            if int(labels.max()) >= classes or int(labels.min()) < 0:
                raise DataError(
                    f"{name} has a label {int(labels.max())}; the network gives {classes} scores, for the "
                    f"classes 0 to {classes - 1}"
                )
