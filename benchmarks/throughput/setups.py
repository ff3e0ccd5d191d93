"""What the throughput benchmark and its processes work on: a recipe, a data set, the target network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from jstc import data, models
from jstc.channels import ChannelMap, analyse
from jstc.core.seeds import derive
from jstc.data import Dataset
from jstc.data.base import DataInfo
from jstc.data.in_memory import Augmentation, dataset_in_memory
from jstc.data.loader import LoaderCache, LoaderSplit
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.train import device, schedule

__all__ = ["RANDOM", "Setup", "Subject"]

RANDOM = "random"
"""A data set of random bytes in memory, for machines without data."""

_SPLITS = ("train", "search_val", "train_full", "test")
_RANDOM_IMAGES, _RANDOM_CLASSES, _RANDOM_SIDE = 4096, 10, 32


@dataclass(frozen=True)
class Setup:
    """The settings of a measurement; a JSON document for the processes that measure it.

    `steps` of `batch` images are one measurement, and one round of the search, `repeats` of each; `sets` are
    other keys of the recipe, as on jstc's command line. `clock`: `wall`, or `cpu` for the processor's time of
    the process itself, which a busy machine disturbs less and which leaves out waiting for files and workers.
    """

    model: str = "resnet20"
    dataset: str = RANDOM
    data: str | None = None
    flops: float = 0.5
    batch: int = 128
    steps: int = 10
    repeats: int = 3
    image_size: int | None = None
    workers: int = 2
    device: str = "auto"
    threads: int = 0
    clock: str = "wall"
    sets: tuple[str, ...] = ()

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Setup:
        """The inverse of `to_json`."""
        document = json.loads(text)
        return cls(**(document | {"sets": tuple(document["sets"])}))

    @property
    def recipe(self) -> Recipe:
        """The recipe of a search of as many coarse rounds as fine ones; the first of each is not counted."""
        return self._recipe(
            f"search.rounds={2 * (self.repeats + 1)}",
            "search.coarse_share=0.5",
            "search.early_stop_overlap=1.0",
            f"search.steps_per_round={self.steps}",
        )

    @property
    def usual_recipe(self) -> Recipe:
        """The recipe as it would be run: rounds of the length that it has by default, or by `sets`."""
        return self._recipe()

    def _recipe(self, *own: str) -> Recipe:
        size = [] if self.image_size is None else [f"input.image_size={self.image_size}"]
        flags = {"model": self.model, "dataset": self.dataset, "data": self.data, "flops": self.flops}
        overrides = ["train.lr=0.01", f"train.batch_size={self.batch}", f"input.workers={self.workers}",
                     f"device={self.device}", f"threads={self.threads}", *size, *self.sets, *own]  # fmt: skip
        return loading.from_flags(flags, overrides)


@dataclass(frozen=True)
class Subject:
    """A data set on its device and the form of the target network."""

    recipe: Recipe
    dataset: Dataset
    where: torch.device
    channels: ChannelMap
    now: Callable[[], float] = time.perf_counter

    @classmethod
    def of(cls, setup: Setup) -> Subject:
        """Load and analyse; sets torch's threads."""
        recipe = setup.recipe
        device.set_threads(recipe.threads)
        where = device.device(recipe.device)
        dataset = load(recipe, where)
        network = _built(recipe, dataset.info, "meta")
        example = torch.zeros(1, *dataset.info.input_shape, device="meta")
        now = time.process_time if setup.clock == "cpu" else time.perf_counter
        return cls(recipe, dataset, where, analyse(network, example), now)

    def other_data(self) -> Subject:
        """A subject with the same images, from loaders of its own: the first ones keep their place."""
        if not isinstance(self.dataset.train, LoaderSplit):
            return self
        loaders, dataset = LoaderCache(), self.dataset
        splits = {name: replace(getattr(dataset, name), loaders=loaders) for name in _SPLITS}
        return replace(self, dataset=replace(dataset, **splits))

    def network(self) -> nn.Module:
        """A new target network, always the same one."""
        network = _built(self.recipe, self.dataset.info, "cpu")
        return device.to_device(network, self.recipe.train, self.where)

    def sync(self) -> None:
        """Wait until the device has done everything: before looking at the clock, and nowhere else."""
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)

    def usual_steps(self, setup: Setup) -> int:
        """Steps of a round of the recipe as it would be run."""
        return schedule.steps_per_round(setup.usual_recipe, self.dataset)


def _built(recipe: Recipe, info: DataInfo, where: str) -> nn.Module:
    spec = models.spec(
        recipe.model,
        num_classes=info.num_classes,
        in_channels=info.channels,
        height=info.height,
        width=info.width,
    )
    return models.build(spec, device=where, seed=derive(recipe.seed, "init"))


def load(recipe: Recipe, where: torch.device) -> Dataset:
    """The recipe's data set, or random bytes."""
    if recipe.dataset == RANDOM:
        size = recipe.input.size or (_RANDOM_SIDE, _RANDOM_SIDE)
        return random_dataset(recipe, (3, *size), _RANDOM_CLASSES, where)
    root = None if recipe.data is None else Path(recipe.data)
    settings, seed = recipe.input, recipe.seed
    return data.load(recipe.dataset, root=root, settings=settings, seed=seed, device=where)


def random_dataset(recipe: Recipe, shape: tuple[int, int, int], classes: int, where: torch.device) -> Dataset:
    """Random images in memory, [N, C, H, W] of `shape`."""
    labels = tuple(f"class {number}" for number in range(classes))
    info = DataInfo(RANDOM, labels, *shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0])
    generator = torch.Generator().manual_seed(0)

    def images(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.randint(256, (number, *shape), dtype=torch.uint8, generator=generator)
        return pixels, torch.arange(number) % classes

    count = max(_RANDOM_IMAGES * _RANDOM_SIDE**2 // (shape[1] * shape[2]), 2 * recipe.train.batch_size)
    augmentation = Augmentation.wanted(recipe.input, info, side=shape[1], flip=True)
    fraction, seed = recipe.input.val_fraction, recipe.seed
    return dataset_in_memory(
        info, images(max(count, 2 * classes)), images(classes), augmentation=augmentation,
        val_fraction=fraction, seed=seed, device=where,
    )  # fmt: skip
