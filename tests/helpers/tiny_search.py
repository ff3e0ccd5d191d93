"""A search in a second: three classes of 8x8 images, a residual network of three channel groups."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap, analyse
from jstc.core.progress import Silent
from jstc.data.base import DataInfo, Dataset, Split
from jstc.data.in_memory import Augmentation, dataset_in_memory
from jstc.jst.importance import importance_of
from jstc.jst.joint import search
from jstc.jst.proposer import Proposer
from jstc.jst.round import RoundContext
from jstc.jst.space import Space, resolve_budgets
from jstc.jst.threshnet import ThreshNet
from jstc.jst.thresholds import Thresholds
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import seeds

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    # `auto` is bfloat16 on a processor that is fast in it, and then other numbers.
    "train.precision": "float32",
    "model": "tiny.py:net",
    "dataset": "patterns",
    "flops": 0.5,
    "train.batch_size": 16,
    "train.lr": 0.1,
    "search.rounds": 6,
    "search.steps_per_round": 4,
    "search.importance": "learned",  # all four parts
    "search.thresholds": "threshnet",
    "search.gate_steps": 2,
    "search.recalibration_images": 48,
    "search.eval_images": 36,
    "search.coarse_share": 0.34,
    "search.coarse_budget": 0.7,
    "search.recency_bonus": 1.0,
    "search.perturbation": True,
    "search.sigma": [1.0, 0.1],
    "search.noise_period": 3,
    "search.tau": [1.0, 0.5],
    "search.candidates": 3,
    "search.candidate_images": 36,
    "finetune.epochs": 2,
    "finetune.steps_per_epoch": 4,
}

LEFT_OUT = "left out"
"""Instead of a value: the key is not given."""

_OF_PARTS = ("importance", "gate_steps", "thresholds", "candidates", "candidate_images")
LEAN: dict[str, Any] = {
    "search.method": "lean",
    **{f"search.{key}": LEFT_OUT for key in (*_OF_PARTS, "perturbation", "sigma", "noise_period")},
}
"""Changes that make a search with the parts that `search.method: lean` has."""

GIVEN: dict[str, Any] = {
    "weights": "given.safetensors",
    "flops": 0.3,  # where it matters how wide which group is
    "channels.round_to": 1,
    "search.rounds": 0,
    "search.reconstruction_images": 0,
    "search.importance": "gradient",
    "search.importance_images": 16,
    "search.gate_steps": LEFT_OUT,
    "search.coarse_share": 0.0,
    "search.coarse_budget": 1.0,
    "search.candidates": 40,
    "search.sigma": [1.0, 0.3],
    "search.tau": [8.0, 4.0],
}
"""Changes that make it a search over the widths of weights that are given, without rounds."""


class TinyNet(nn.Module):
    """Groups: stem with join (8 channels, tied by the residual), wide (12), last (16)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.wide_bn = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.join, self.join_bn = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.last, self.last_bn = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem_bn(self.stem(images)).relu()
        x = (x + self.join_bn(self.join(self.wide_bn(self.wide(x)).relu()))).relu()
        x = self.last_bn(self.last(x)).relu()
        return self.fc(self.dropout(x.mean((2, 3))))


def tiny_network(seed: int = 0) -> TinyNet:
    with seeds.seeded(seed, "tiny network"):
        return TinyNet()


def tiny_dataset(seed: int = 0) -> Dataset:
    info = DataInfo("patterns", ("a", "b", "c"), 2, 8, 8, mean=(0.5, 0.5), std=(0.25, 0.25))
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(99))
    patterns = patterns.repeat_interleave(4, 2).repeat_interleave(4, 3)

    def images(number: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(number) % 3
        noise = torch.rand(number, 2, 8, 8, generator=generator)
        return ((0.25 * patterns[labels] + 0.75 * noise) * 255).to(torch.uint8), labels

    augmentation = Augmentation(padding=1, flip=False)
    return dataset_in_memory(
        info, images(180), images(30), augmentation=augmentation, val_fraction=0.3, seed=0, device=CPU
    )


def tiny_recipe(changes: dict[str, Any]) -> Recipe:
    """The settings above with `changes`, by dotted key."""
    document: dict[str, Any] = {}
    for key, value in (SETTINGS | changes).items():
        if value == LEFT_OUT:
            continue
        *sections, name = key.split(".")
        inner = document
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return Recipe.model_validate(document)


def proposer_of(channels: ChannelMap, recipe: Recipe) -> Proposer:
    """The proposer of a recipe, at its budgets."""
    return Proposer(channels, recipe, resolve_budgets(channels, recipe))


def policy_of(thresholds: Thresholds, budget: int = 0) -> ThreshNet:
    """The policy of a strategy that has one, for a budget."""
    policy = thresholds.policy(budget)
    assert policy is not None
    return policy


def spaces_of(channels: ChannelMap, recipe: Recipe) -> list[Space]:
    """The space of each budget of a recipe."""
    return Space.each(channels, recipe, resolve_budgets(channels, recipe))


def context_of(recipe: Recipe, dataset: Dataset) -> RoundContext:
    """What the rounds of a search share, on the CPU."""
    importance = importance_of(recipe)
    return RoundContext.of(
        recipe, dataset, CPU, trains_gates=importance.trains_gates, slopes=importance.follows_training
    )


@dataclass
class Run:
    """A search that came to its end."""

    directory: Path
    plans: dict[str, Plan]
    target: nn.Module
    recipe: Recipe

    @property
    def plan(self) -> Plan:
        """The plan of a search at one budget."""
        [plan] = self.plans.values()
        return plan

    def at(self, label: str) -> Run:
        """The part of a search at several budgets that belongs to one of them."""
        return Run(self.directory / label, {label: self.plans[label]}, self.target, self.recipe.at(label))

    @property
    def history(self) -> list[dict[str, Any]]:
        path = self.directory / "history.jsonl"  # which a search without rounds does not write
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.directory / "result.json").read_text())

    @property
    def files(self) -> dict[str, Any]:
        """What must not depend on when a search ran, or how often it was broken off."""
        return {
            "history": [without_seconds(record) for record in self.history],
            "result": without_seconds(self.result),
            "plan.json": (self.directory / "plan.json").read_bytes(),
            "subnetwork.safetensors": (self.directory / "subnetwork.safetensors").read_bytes(),
        }


def without_seconds(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "seconds"}


def tiny_search(directory: Path, changes: dict[str, Any] | None = None, **others: Any) -> Run:
    """Search in `directory`; `others`: a dataset, a network or a progress of one's own."""
    target = others.get("network") or tiny_network()
    dataset = others.get("dataset") or tiny_dataset()
    recipe = tiny_recipe(changes or {})
    channels = analyse(target, torch.zeros(1, 2, 8, 8))
    plans = search(
        target,
        channels,
        dataset,
        recipe=recipe,
        budgets=resolve_budgets(channels, recipe),
        directory=directory,
        progress=others.get("progress") or Silent(),
    )
    return Run(directory, plans, target, recipe)


@dataclass
class Watched:
    """A split that calls `asked` with the name of the method before each batch."""

    inner: Split
    asked: Callable[[str], object]

    @property
    def num_images(self) -> int:
        return self.inner.num_images

    def steps(self, batch_size: int) -> int:
        return self.inner.steps(batch_size)

    def shuffled(self, *given: Any, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.inner.shuffled(*given, **options):
            self.asked("shuffled")
            yield batch

    def ordered(self, batch_size: int, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.inner.ordered(batch_size, **options):
            self.asked("ordered")
            yield batch


def watch(dataset: Dataset, **asked: Callable[[str], object]) -> Dataset:
    """The dataset with some of its splits, by name, `Watched`."""
    splits = {name: Watched(getattr(dataset, name), call) for name, call in asked.items()}
    return dataclasses.replace(dataset, **splits)
