"""The file in which the stages hand on a gated sub-network: tensors, gates, optimiser, plan, step.

Search and finetune write it; finetune and slim read it, and load it into a `GatedNetwork` that they build.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jstc.channels.cutting.channel_gates import GatedNetwork
from jstc.errors import RunDirectoryError
from jstc.plan import Plan
from jstc.train import checkpoint, collectives, optim

__all__ = ["Handover", "load_subnetwork", "read_subnetwork", "save_subnetwork"]


@dataclass(frozen=True)
class Handover:
    """Content of the file: the sliced tensors without gates, the gates by group, the optimiser's state.

    `step` is the position in the learning-rate schedule that the training has reached.
    """

    network: dict[str, Tensor]
    gates: dict[str, Tensor]
    optimizer: optim.State
    step: int

    def restore(self, gated: GatedNetwork) -> None:
        """Load network and gates, in place. Raises `RunDirectoryError` when they do not fit."""
        try:
            gated.network.load_state_dict(self.network)
        except RuntimeError as error:
            raise RunDirectoryError(f"the saved sub-network does not fit the model: {error}") from None
        gated.load_gates(self.gates)


def save_subnetwork(
    path: Path, gated: GatedNetwork, *, optimizer: optim.State, plan: Plan, step: int
) -> None:
    """Write the sub-network to `path`, whole or not at all."""
    tensors = checkpoint.join(network=gated.network.state_dict(), gates=gated.gates, **optimizer)
    checkpoint.save(path, tensors, {"plan_hash": plan.hash, "step": step})


def load_subnetwork(path: Path, *, plan: Plan) -> Handover:
    """Read the sub-network of `plan`; of several processes the first one does, for all.

    Raises `RunDirectoryError` for a file that is missing or damaged, or that belongs to another plan.
    """
    saved = collectives.from_first(lambda: _checked(path, plan))
    assert saved is not None
    return _handover(*saved)


def read_subnetwork(path: Path, *, plan: Plan) -> Handover:
    """Read the sub-network of `plan` in this process alone. Raises as `load_subnetwork` does."""
    return _handover(*_checked(path, plan))


def _handover(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Handover:
    network, gates = (checkpoint.part(tensors, name) for name in ("network", "gates"))
    return Handover(network, gates, optim.from_tensors(tensors), int(meta["step"]))


def _checked(path: Path, plan: Plan) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, meta = checkpoint.load(path)
    if meta.get("plan_hash") != plan.hash:
        raise RunDirectoryError(f"{path} belongs to another plan than the search's; use --fresh")
    return tensors, meta
