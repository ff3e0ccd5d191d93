"""jstc from Python: `jstc.search` runs search, finetune and slim on a network and data in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jstc import slim
from jstc.core import files, processes
from jstc.core.progress import Progress
from jstc.data import WHOLE, DataInfo, Dataset, Epoch, Part, Split
from jstc.data.sampling import epoch_order, num_steps, spread
from jstc.errors import BudgetError, DataError, StageError
from jstc.models import ModelSpec
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands, workers
from jstc.runs.network_check import num_scores
from jstc.runs.preprocessing import Settled
from jstc.runs.workspace import Workspace

__all__ = ["GivenSplit", "GivenWorkspace", "SearchResult", "as_dataset", "as_split", "search"]

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


# A network and data that are in memory: torch Datasets as splits, and the workspace of such a run.

_LABELS_SEEN = 128

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class GivenSplit:
    """Images and labels of `source`, which gives an image tensor [C, H, W] and a whole number for an index.

    The order is a pure function of the seed; whatever `source` does at random is its own affair.
    """

    source: Any
    device: torch.device

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.source)

    def steps(self, batch_size: int) -> int:
        """Batches in one shuffled epoch."""
        return num_steps(self.num_images, batch_size)

    def shuffled(self, batch_size: int, epoch: Epoch, *, part: Part = WHOLE) -> Iterator[Batch]:
        """The batches of one epoch for training; augmentation is what `source` does."""
        order = epoch_order(self.num_images, seed=epoch.seed, epoch=epoch.number)
        for step in range(epoch.start, self.steps(batch_size)):
            first = step * batch_size
            share = part.of_training(first, min(first + batch_size, self.num_images))
            yield self._batch(order[share].tolist())

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, or `limit` spread over them."""
        chosen = spread(self.num_images, limit).tolist()
        for first in range(0, len(chosen), batch_size):
            share = chosen[part.of(first, min(first + batch_size, len(chosen)))]
            if share:
                yield self._batch(share)

    def originals(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """The images of `ordered` as bytes: what they were made of, `source` does not say."""
        for images, labels in self.ordered(batch_size, limit=limit, part=part):
            yield (images * 255).round().clamp(0, 255).to(torch.uint8), labels

    def _batch(self, indices: list[int]) -> Batch:
        images, labels = zip(*(self.source[index] for index in indices), strict=True)
        classes = torch.as_tensor([int(label) for label in labels], dtype=torch.int64)
        return torch.stack(images).to(self.device, torch.float32), classes.to(self.device)


def as_split(data: Any, device: torch.device) -> Split:
    """`data` if it is a `Split`, otherwise a torch Dataset as one.

    Raises `DataError` unless its items are pairs of an image tensor [C, H, W] and a whole number.
    """
    if hasattr(data, "shuffled") and hasattr(data, "ordered"):
        split: Split = data
        return split
    try:
        image, label = data[0]
        good = len(data) > 0 and isinstance(image, torch.Tensor) and image.dim() == 3 and int(label) >= 0
    except (TypeError, ValueError, IndexError, KeyError):
        good = False
    if not good:
        raise DataError(
            "expected a torch Dataset with pairs of an image tensor [C, H, W] and a class number, or a "
            f"Split of jstc; got {type(data).__name__}"
        )
    return GivenSplit(data, device)


def as_dataset(train: Any, val: Any, *, num_classes: int, device: torch.device) -> Dataset:
    """A dataset of two splits: `val` is both what the search is judged on and what is reported."""
    train, val = as_split(train, device), as_split(val, device)
    images, _ = next(iter(val.ordered(1, limit=1)))
    _, channels, height, width = images.shape
    labels = tuple(str(number) for number in range(num_classes))
    info = DataInfo("given", labels, channels, height, width, (0.0,) * channels, (1.0,) * channels)
    return Dataset(info=info, train=train, search_val=val, train_full=train, test=val)


class GivenWorkspace(Workspace):
    """A workspace whose network and data are there already; it looks up no names.

    Raises `DataError` or `ModelError` for what cannot be trained on.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, train_data: Any, val_data: Any) -> None:
        super().__init__(recipe)
        self._model = model
        self.dataset = as_dataset(train_data, val_data, num_classes=1, device=self.device)
        shape = self.dataset.info.input_shape
        classes = num_scores(model, shape)
        self.dataset = as_dataset(train_data, val_data, num_classes=classes, device=self.device)
        _require_labels(self.dataset)
        self.info = self.dataset.info
        self.images = Settled(self.info, "")
        self.spec = ModelSpec(recipe.model, classes, *shape, cifar=False)

    def check_names(self) -> None:
        """Do nothing: network and data are here."""

    def skeleton(self) -> nn.Module:
        """The network itself: analysing it leaves it as it is."""
        return self._model

    def structure(self) -> nn.Module:
        """A copy of the network."""
        return copy.deepcopy(self._model).cpu()

    def new_target(self) -> nn.Module:
        """A copy of the network with the weights that it has."""
        return self.structure()


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
