"""What all methods of one job share: network, data, ledger, clock; and the training of a fixed network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy.ledger import FORWARD, Clock, CountedSplit, Ledger
from benchmarks.accuracy.settings import Job
from jstc import models
from jstc.channels import ChannelMap, analyse
from jstc.core.progress import Silent
from jstc.core.seeds import derive
from jstc.data import Dataset, Split
from jstc.recipe.schema import Recipe
from jstc.train import device, seeds
from jstc.train import schedule as schedules
from jstc.train.device import Numerics
from jstc.train.fit import fit
from jstc.train.job import Job as Training
from jstc.train.loop import evaluate
from jstc.train.recalibration import recalibrate_trained

__all__ = ["Outcome", "Work", "fresh", "initialise"]


@dataclass(frozen=True)
class Outcome:
    """What a method came to: fractions of the test and the search-validation split, and its network's cost.

    `network` gives the widths; it need not be the trained one. `extra` is what the method has to tell.
    """

    accuracy: float
    flops: int
    params: int
    network: nn.Module
    search_val_accuracy: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """One job in progress; `directory` is its own, `cache` is shared by the jobs of one output folder."""

    job: Job
    recipe: Recipe
    dataset: Dataset
    ledger: Ledger
    clock: Clock
    where: torch.device
    directory: Path
    cache: Path

    @classmethod
    def of(cls, job: Job, dataset: Dataset, *, where: torch.device, directory: Path, cache: Path) -> Work:
        """The start of a job: nothing spent."""
        # Recalibration of batch norms reads the training part in order, judging the search-validation part;
        # so does the ranking of a trained network's channels, which is paid for and taken off.
        dataset = replace(
            dataset, train=CountedSplit(dataset.train), search_val=CountedSplit(dataset.search_val)
        )
        work = cls(job, job.recipe, dataset, Ledger(1, job.allowed), Clock(), where, directory, cache)
        work.ledger.epoch = dataset.train_full.num_images * work.channels.cost().flops
        return work

    @cached_property
    def spec(self) -> models.ModelSpec:
        """How the target network is built."""
        info = self.dataset.info
        return models.spec(
            self.recipe.model,
            num_classes=info.num_classes,
            in_channels=info.channels,
            height=info.height,
            width=info.width,
            cifar=self.recipe.cifar,
        )

    @cached_property
    def channels(self) -> ChannelMap:
        """Groups and costs of the target network."""
        skeleton = models.build(self.spec, device="meta")
        return analyse(skeleton, self.example(), ignore=self.recipe.channels.ignore)

    @property
    def limit(self) -> int:
        """The budget, in FLOPs."""
        share = self.recipe.budget["flops"]
        assert not isinstance(share, str)  # a string is a budget of latency
        return int(share * self.channels.cost().flops * (1 + 1e-12))

    @property
    def batch(self) -> int:
        """Images per training step."""
        return self.recipe.train.batch_size

    def judging(self, flops: int) -> dict[str, float]:
        """Images that choices were made by, and what that cost in epochs' worth at `flops` an image.

        Not part of the training that the rule is about; written down beside it.
        """
        images = sum(getattr(self.dataset, name).judged for name in ("train", "search_val"))
        return {"images": images, "epochs": images * flops * FORWARD / self.ledger.epoch}

    def example(self) -> torch.Tensor:
        """One image of zeros, on the CPU."""
        return torch.zeros(1, *self.dataset.info.input_shape)

    def target(self) -> nn.Module:
        """The target network as it is before any training, the same for every method of one seed."""
        network = models.build(self.spec, seed=derive(self.recipe.seed, "init"))
        return device.to_device(network, self.recipe.train, self.where)

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to where it is trained."""
        return device.to_device(network, self.recipe.train, self.where)

    def train(
        self, network: nn.Module, *, split: Split, steps: int, phase: str, name: str, flops: int
    ) -> None:
        """Train a fixed network in place, over a learning-rate schedule of its own, and pay for it.

        `phase` is whom to charge, `name` tells this training from others of the job: order and
        augmentation of the images follow from it and the seed.
        """
        training = Training(
            network=network,
            split=split,
            settings=self.recipe.train,
            schedule=schedules.schedule_over(self.recipe, self.dataset, total=steps),
            steps_per_epoch=split.steps(self.batch),
            seed=derive(self.recipe.seed, "accuracy", name),
            augment=self.recipe.input.augment,
            num_classes=self.dataset.info.num_classes,
        )
        with self.clock.phase(phase):
            result = fit(training, directory=self.directory / name, progress=Silent(), stage=name)
            recalibrate_trained(network, training)  # as ours are: every method's networks alike
        self.ledger.pay(phase, result.images * flops)

    def tested(self, network: nn.Module) -> float:
        """Accuracy on the test split, in float32; for the end of a job, once."""
        return self.scored(network, self.dataset.test)

    def scored(self, network: nn.Module, split: Split) -> float:
        """Accuracy on a whole split, in float32."""
        with self.clock.phase("evaluation"):
            batches = split.ordered(max(self.batch, 256))
            numerics = Numerics(channels_last=self.recipe.train.channels_last)
            return evaluate(network, batches, numerics).accuracy


def fresh(work: Work, plan: Any, *, name: str) -> nn.Module:
    """The sub-network of a plan with new random weights, by the seed and `name`."""
    network = work.channels.slice(work.target().cpu(), plan)
    initialise(network, seed=derive(work.recipe.seed, "accuracy", "init", name))
    return work.place(network)


def initialise(network: nn.Module, *, seed: int) -> None:
    """New weights as the networks of `jstc.models` draw their first ones, for the widths as they are."""
    with seeds.seeded(seed):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
