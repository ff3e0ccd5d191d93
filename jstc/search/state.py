"""Everything a search knows between two rounds, and the one file that it is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap
from jstc.plan import Plan
from jstc.recipe import Recipe, SearchSettings
from jstc.search.anneal import phase
from jstc.search.archive import Archive, read_plan
from jstc.search.threshnet import ThreshNet
from jstc.search.updater import Target
from jstc.train import checkpoint

__all__ = ["State"]


@dataclass
class State:
    """The target network and its channel weights, the policy, the archive, and how far the search is."""

    target: Target
    threshnet: ThreshNet
    archive: Archive
    settings: SearchSettings
    round: int = 0
    plan: Plan | None = None
    overlaps: list[float] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0

    @classmethod
    def new(cls, network: nn.Module, channels: ChannelMap, threshnet: ThreshNet, recipe: Recipe) -> State:
        """The state before the first round."""
        archive = Archive(recipe.search.archive_size)
        return cls(Target.new(network, channels, recipe.train), threshnet, archive, recipe.search)

    @property
    def settled(self) -> bool:
        """Whether the plans of the last rounds, all of them fine ones, hardly differ any more."""
        window = self.settings.settle_window
        fine = self.round > 0 and not phase(self.settings, max(0, self.round - window - 1)).coarse
        recent = self.overlaps[-window:]
        return fine and len(recent) == window and sum(recent) / window >= self.settings.settle_overlap

    def advance(
        self, plan: Plan, accuracy: float, overlap: float | None, images: int, seconds: float
    ) -> None:
        """A round with `plan` is over."""
        self.archive.add(plan, accuracy, self.round)
        self.plan = plan
        if overlap is not None:
            self.overlaps.append(overlap)
        self.round += 1
        self.images += images
        self.seconds += seconds
        self.last_seconds = seconds

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write everything to one file; `identity` says what search it belongs to."""
        policy, figures = self.threshnet.state()
        target = self.target
        gates = {"alpha": target.alpha, "moments": target.moments, "steps": target.steps}
        tensors = checkpoint.join(
            network=target.network.state_dict(), momentum=target.momentum, gates=gates, policy=policy
        )
        meta = {
            "identity": identity,
            "round": self.round,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "overlaps": self.overlaps,
            "images": self.images,
            "seconds": self.seconds,
            "policy": figures,
            "archive": self.archive.to_list(),
        }
        checkpoint.save(path, tensors, meta)

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `save` wrote, as `checkpoint.load` gives it back; it must be of the same search."""
        target = self.target
        target.network.load_state_dict(checkpoint.part(tensors, "network"))
        with torch.no_grad():
            for name, value in checkpoint.part(tensors, "momentum").items():
                target.momentum[name].copy_(value)
            for name, value in checkpoint.part(tensors, "gates").items():
                getattr(target, name).copy_(value)
        self.threshnet.restore(checkpoint.part(tensors, "policy"), meta["policy"])
        groups = target.channels.widths
        self.archive.restore(meta["archive"], groups)
        self.round, self.overlaps = meta["round"], meta["overlaps"]
        self.plan = None if meta["plan"] is None else read_plan(meta["plan"], groups)
        self.images, self.seconds = meta["images"], meta["seconds"]
