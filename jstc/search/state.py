"""Everything a search knows between two rounds, and the one file that it is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap
from jstc.plan import Plan
from jstc.recipe import Recipe, SearchSettings
from jstc.search.anneal import Phase, phase
from jstc.search.archive import Archive, read_plan
from jstc.search.threshnet import ThreshNet
from jstc.search.updater import Target
from jstc.train import checkpoint, learner, optim

__all__ = ["Course", "State"]


@dataclass
class Course:
    """What a search knows of one budget: the best plans, the latest one, overlaps of successive plans."""

    archive: Archive
    plan: Plan | None = None
    overlaps: list[float] = field(default_factory=list)
    thresholds: list[int] | None = None  # the policy's choice in the latest fine round, by number in the grid

    def advance(self, plan: Plan, accuracy: float | None, round_: int, *, at_budget: bool) -> float | None:
        """A round with `plan` is over; returns its overlap with the plan before.

        Plans not judged, and those below the budget, are no candidates for the verdict.
        """
        overlap = self.plan.overlap(plan) if self.plan is not None else None
        if at_budget and accuracy is not None:
            self.archive.add(plan, accuracy, round_)
        self.plan = plan
        if overlap is not None:
            self.overlaps.append(overlap)
        return overlap

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        plan = None if self.plan is None else self.plan.to_dict()
        latest = {"plan": plan, "thresholds": self.thresholds}
        return {**latest, "overlaps": self.overlaps, "archive": self.archive.to_list()}

    def restore(self, document: Mapping[str, Any], groups: Mapping[str, int]) -> None:
        """The inverse of `to_dict`."""
        self.plan = None if document["plan"] is None else read_plan(document["plan"], groups)
        self.overlaps, self.thresholds = document["overlaps"], document["thresholds"]
        self.archive.restore(document["archive"], groups)


@dataclass
class State:
    """The target network and its channel weights, the policy, each budget's course, how far the search is."""

    target: Target
    threshnet: ThreshNet
    courses: list[Course]
    settings: SearchSettings
    scaler: torch.amp.GradScaler | None = None  # of gradients in float16
    round: int = 0
    images: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0
    rollbacks: int = 0

    @classmethod
    def new(cls, network: nn.Module, channels: ChannelMap, threshnet: ThreshNet, recipe: Recipe) -> State:
        """The state before the first round."""
        courses = [Course(Archive(recipe.search.archive_size)) for _ in recipe.budgets]
        target = Target.new(network, channels, recipe.train)
        scaler = learner.scaler(recipe.train, target.alpha.device)
        return cls(target, threshnet, courses, recipe.search, scaler)

    @property
    def course(self) -> Course:
        """That of the budget whose turn the next round is."""
        return self.courses[self.round % len(self.courses)]

    def _phase(self, round_: int) -> Phase:
        return phase(self.settings, round_, budgets=len(self.courses))

    @property
    def could_settle(self) -> bool:
        """Whether the search has had as many fine rounds as it takes to tell."""
        first = self.round - (self.settings.settle_window + 1) * len(self.courses)
        return first >= 0 and not self._phase(first).coarse

    @property
    def settled(self) -> bool:
        """Whether the plans of every budget's last rounds, all of them fine ones, hardly differ any more."""
        window = self.settings.settle_window
        recent = [course.overlaps[-window:] for course in self.courses]
        return self.could_settle and all(sum(r) / window >= self.settings.settle_overlap for r in recent)

    def advance(self, plan: Plan, accuracy: float | None, *, images: int, seconds: float) -> float | None:
        """A round with `plan` is over; returns its overlap with the plan before it at the same budget."""
        at_budget = not self._phase(self.round).below
        overlap = self.course.advance(plan, accuracy, self.round, at_budget=at_budget)
        self.round += 1
        self.images += images
        self.seconds += seconds
        self.last_seconds = seconds
        return overlap

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint; the live ones."""
        target, (policy, _) = self.target, self.threshnet.state()
        gates = {name: getattr(target, name) for name in ("alpha", "moments", "steps", "trained", "taylor")}
        network = target.network.state_dict()
        return checkpoint.join(network=network, **target.optimizer, gates=gates, policy=policy)

    def document(self) -> dict[str, Any]:
        """All of a checkpoint that is no tensor, as JSON."""
        scaler = {} if self.scaler is None else {"scaler": self.scaler.state_dict()}
        return {
            "round": self.round,
            "images": self.images,
            "seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "policy": self.threshnet.state()[1],
            "courses": [course.to_dict() for course in self.courses],
            **scaler,
        }

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `document` gave; it must be of the same search."""
        target = self.target
        target.network.load_state_dict(checkpoint.part(tensors, "network"))
        with torch.no_grad():
            for kind, values in optim.from_tensors(tensors).items():
                for name, value in values.items():
                    target.optimizer[kind][name].copy_(value)
            for name, value in checkpoint.part(tensors, "gates").items():
                getattr(target, name).copy_(value)
        self.threshnet.restore(checkpoint.part(tensors, "policy"), meta["policy"])
        if self.scaler is not None:
            self.scaler.load_state_dict(meta["scaler"])
        for course, document in zip(self.courses, meta["courses"], strict=True):
            course.restore(document, target.channels.widths)
        self.round, self.images, self.seconds = meta["round"], meta["images"], meta["seconds"]
        self.rollbacks = meta["rollbacks"]
