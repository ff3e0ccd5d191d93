"""Everything a search knows between two rounds, what its checkpoint holds, and which search that belongs to.

A checkpoint is made of `State.tensors` and `State.document`; `fingerprint` says what decided its numbers, so
that a search takes up no other one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap
from jstc.channels.trace.ids import named_tensors
from jstc.errors import RunDirectoryError
from jstc.jst.phases import Growth
from jstc.jst.proposer import Proposer
from jstc.jst.subnetwork import Target
from jstc.jst.thresholds import Thresholds
from jstc.plan import Plan
from jstc.recipe.schema import Recipe, SearchSettings
from jstc.train import checkpoint, job, optim

__all__ = ["Archive", "BudgetTrack", "Entry", "State", "fingerprint", "read_plan", "require_same"]

# The best plans seen so far, by search-validation accuracy


def read_plan(document: Any, groups: Iterable[str]) -> Plan:
    """The plan in a JSON document whose keys were sorted, with its groups in the order of `groups` again.

    Their order decides the bytes of `plan.json`, and the last bit of a sum over the groups.
    """
    plan = Plan.from_dict(document)
    names = list(groups)
    return Plan({n: plan.kept[n] for n in names}, {n: plan.widths[n] for n in names})


@dataclass(frozen=True)
class Entry:
    """A plan, its accuracy on search-validation after its round, and the round."""

    plan: Plan
    accuracy: float
    round: int


class Archive:
    """At most `size` different plans; of one plan the newest score, of equal scores the newer plan.

    Newer, because the target network's weights go on changing: an old plan's score is a promise less kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: list[Entry] = []

    def add(self, plan: Plan, accuracy: float, round_: int) -> None:
        """Offer a plan."""
        others = [entry for entry in self.entries if entry.plan.hash != plan.hash]
        ranked = sorted([*others, Entry(plan, accuracy, round_)], key=lambda e: (-e.accuracy, -e.round))
        self.entries = ranked[: self.size]

    def to_list(self) -> list[dict[str, Any]]:
        """A JSON document."""
        return [{"plan": e.plan.to_dict(), "accuracy": e.accuracy, "round": e.round} for e in self.entries]

    def restore(self, document: list[dict[str, Any]], groups: Iterable[str]) -> None:
        """The inverse of `to_list`; `groups` are the names of the network's groups in their order."""
        names = list(groups)
        self.entries = [Entry(read_plan(e["plan"], names), e["accuracy"], e["round"]) for e in document]


@dataclass
class BudgetTrack:
    """What a search knows of one budget: the best plans, the latest one, overlaps of successive plans."""

    archive: Archive
    plan: Plan | None = None
    overlaps: list[float] = field(default_factory=list)

    def advance(self, plan: Plan, accuracy: float | None, round_: int, *, at_budget: bool) -> float | None:
        """A round with `plan` is over; returns its overlap with the plan before.

        Plans not judged, and those below the budget, are no candidates for the final selection.
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
        return {"plan": plan, "overlaps": self.overlaps, "archive": self.archive.to_list()}

    def restore(self, document: Mapping[str, Any], groups: Mapping[str, int]) -> None:
        """The inverse of `to_dict`."""
        self.plan = None if document["plan"] is None else read_plan(document["plan"], groups)
        self.overlaps = document["overlaps"]
        self.archive.restore(document["archive"], groups)


_OF_CHANNELS = ("alpha", "moments", "steps", "trained", "sensitivity")


@dataclass
class State:
    """The target network and its gates, what a policy learned, each budget's track, and how far it is."""

    target: Target
    thresholds: Thresholds
    growth: Growth
    tracks: list[BudgetTrack]
    settings: SearchSettings
    scaler: torch.amp.GradScaler | None = None  # of gradients in float16
    round: int = 0
    images: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0
    rollbacks: int = 0
    widths_found: bool = False  # the width search is over, and the policies stand at what it found

    @classmethod
    def new(
        cls,
        network: nn.Module,
        channels: ChannelMap,
        proposer: Proposer,
        recipe: Recipe,
        *,
        own: bool = True,
    ) -> State:
        """The state before the first round; with `own` the search trains, and has the optimisers' states."""
        tracks = [BudgetTrack(Archive(recipe.search.archive_size)) for _ in recipe.budgets]
        target = Target.new(network, channels, recipe.train if own else None)
        scaler = job.scaler(recipe.train, target.alpha.device) if own else None
        return cls(target, proposer.thresholds, proposer.growth, tracks, recipe.search, scaler)

    @property
    def track(self) -> BudgetTrack:
        """Track of the budget whose turn the next round is."""
        return self.tracks[self.round % len(self.tracks)]

    @property
    def could_settle(self) -> bool:
        """Whether the search has had as many fine rounds as it takes to tell."""
        first = self.round - (self.settings.early_stop_window + 1) * len(self.tracks)
        return first >= 0 and not self.growth.at(first).coarse

    @property
    def settled(self) -> bool:
        """Whether the plans of every budget's last rounds, all of them fine ones, hardly differ any more."""
        window = self.settings.early_stop_window
        recent = [track.overlaps[-window:] for track in self.tracks]
        return self.could_settle and all(sum(r) / window >= self.settings.early_stop_overlap for r in recent)

    def advance(self, plan: Plan, accuracy: float | None, *, images: int, seconds: float) -> float | None:
        """A round with `plan` is over; returns its overlap with the plan before it at the same budget."""
        at_budget = not self.growth.at(self.round).below
        overlap = self.track.advance(plan, accuracy, self.round, at_budget=at_budget)
        self.round += 1
        self.images += images
        self.seconds += seconds
        self.last_seconds = seconds
        return overlap

    def figures(self) -> dict[str, Any]:
        """How far it is, for a result."""
        return {"rounds": self.round, "settled": self.settled, "seconds": round(self.seconds, 3)}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint; the live ones."""
        target, (policy, _) = self.target, self.thresholds.state()
        gates = {name: getattr(target, name) for name in _OF_CHANNELS}
        # Not its state_dict, whose names may be others, and which may leave buffers out.
        network = dict(named_tensors(target.network))
        return checkpoint.join(network=network, **target.optimizer, gates=gates, policy=policy)

    def document(self) -> dict[str, Any]:
        """All of a checkpoint that is no tensor, as JSON."""
        scaler = {} if self.scaler is None else {"scaler": self.scaler.state_dict()}
        return {
            "round": self.round,
            "images": self.images,
            "seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "widths_found": self.widths_found,
            "policy": self.thresholds.state()[1],
            "courses": [track.to_dict() for track in self.tracks],
            **scaler,
        }

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `document` gave; it must be of the same search."""
        target = self.target
        saved = checkpoint.part(tensors, "network")
        with torch.no_grad():
            for name, tensor in named_tensors(target.network):
                if name in saved:  # earlier versions left some buffers out
                    tensor.copy_(saved[name])
            for kind, values in optim.from_tensors(tensors).items():
                for name, value in values.items():
                    target.optimizer[kind][name].copy_(value)
            for name, value in checkpoint.part(tensors, "gates").items():
                getattr(target, name).copy_(value)
        self.thresholds.restore(checkpoint.part(tensors, "policy"), meta["policy"])
        if self.scaler is not None:
            self.scaler.load_state_dict(meta["scaler"])
        for track, document in zip(self.tracks, meta["courses"], strict=True):
            track.restore(document, target.channels.widths)
        self.round, self.images, self.seconds = meta["round"], meta["images"], meta["seconds"]
        self.rollbacks, self.widths_found = meta["rollbacks"], meta["widths_found"]


# What makes a search the same search when it is called again

_VERSION = 8
"""Raised when the same settings come to mean another search, or a checkpoint to hold something else."""


def fingerprint(recipe: Recipe, channels: ChannelMap) -> dict[str, Any]:
    """Everything that decides the numbers of a search; a checkpoint of another one is refused."""
    keys = {"model", "cifar", "weights", "dataset", "seed", "flops", "params", "latency", "latency_on"}
    settings = recipe.model_dump(mode="json", include=keys)
    parts = {name: getattr(recipe, name).model_dump(mode="json") for name in ("search", "channels")}
    parts["train"] = recipe.train.model_dump(mode="json", exclude=set(recipe.train.BEFORE))
    parts["input"] = recipe.input.model_dump(mode="json", exclude=set(recipe.input.FREE))
    finetune = recipe.finetune
    schedule = {"finetune_epochs": finetune.epochs, "finetune_steps_per_epoch": finetune.steps_per_epoch}
    return {"version": _VERSION, **settings, **parts, **schedule, "widths": channels.widths}


def require_same(theirs: Any, ours: Mapping[str, Any], path: Path) -> None:
    """Raise `RunDirectoryError` unless the checkpoint at `path` says that it belongs to our search.

    Before anything is taken over: tensors of another network or policy do not even fit.
    """
    different = checkpoint.differences(theirs, ours)
    if different:
        raise RunDirectoryError(
            f"{path} belongs to another search ({', '.join(different)} differ)",
            "use another directory, or --fresh",
        )
