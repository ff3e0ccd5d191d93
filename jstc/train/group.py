"""The group of all processes, as torchrun started them: meeting in its store, joining, leaving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from jstc import ranks
from jstc.train.meeting import meet

__all__ = ["lost", "shut_down", "start", "store", "team"]

_TRAINING_TIMEOUT = timedelta(minutes=10)
"""For the exchange of gradients: a file system that stalls is waited for, a process that hangs is not."""
_CONTROL_TIMEOUT = timedelta(hours=1)
"""While process 0 saves or measures, the others wait for its word."""
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")


@dataclass
class _Team:
    """What this process knows of the others; `control` is a group of gloo's, for all that is no gradient.

    `own` says that the group of all processes is ours, and not one that a user's program had before.
    """

    store: Any = None
    control: Any = None
    active: bool = False
    own: bool = False
    groups: int = 0


team = _Team()


def store() -> Any:
    """The part of torchrun's key-value store that is these processes' own; the first call meets them all.

    Raises `StageError` when some of them do not come.
    """
    if team.store is None:
        from torch.distributed.rendezvous import rendezvous

        whole, rank, world = next(rendezvous("env://", timeout=_TRAINING_TIMEOUT))
        whole = dist.PrefixStore("jstc", whole)  # type: ignore[attr-defined]
        # Process 0 may look at its input, or measure, for any time before it calls; torchrun ends the others
        # when it fails.
        patience = math.inf if rank else _TRAINING_TIMEOUT.total_seconds()
        session = meet(whole, rank=rank, world=world, seconds=patience)
        team.store = dist.PrefixStore(session, whole)  # type: ignore[attr-defined]
    return team.store


def start(where: torch.device) -> None:
    """Join the group of all processes, once; returns when all of them are there.

    Gradients travel by NCCL between GPUs and by gloo between CPUs, everything else by gloo.
    """
    if dist.is_initialized() and team.control is not None:
        return
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if where.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"group/{team.groups}", store()),  # type: ignore[attr-defined]
            rank=ranks.rank(),
            world_size=ranks.world(),
            timeout=_TRAINING_TIMEOUT,
        )
        team.groups, team.own = team.groups + 1, True
    team.control = dist.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT)


def shut_down() -> None:
    """Leave the group; does nothing for a process that is in none. A group that was there before stays."""
    if team.control is not None and dist.is_initialized():
        dist.destroy_process_group(None if team.own else team.control)
    team.control, team.own = None, False


def lost(error: BaseException) -> bool:
    """Whether `error` means that another process is gone."""
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error).lower() for word in _LOST)
