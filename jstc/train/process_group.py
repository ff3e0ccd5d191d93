"""The group of all processes that torchrun started: their rendezvous in its store, joining, leaving.

`rendezvous` may go when a new start of torchrun finds an empty store: start two processes with
`--max-restarts`, kill one, and see whether the others come back without it.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from jstc.core import processes
from jstc.errors import InputError, StageError

__all__ = ["is_lost", "join", "join_if_several", "leave", "membership", "rendezvous", "store"]

# How the processes of one start find each other in torchrun's store.
#
# When torchrun starts them anew (`--max-restarts`) the store is still there, with the addresses of those
# before them, to which gloo and NCCL would connect (pytorch issue 135712; torch 2.14 still does, in every
# rendezvous). Nothing that all are told says which start it is: each machine counts only the restarts of its
# own. So process 0 names a session, under which all that follows is kept, and tells it to whoever shows a
# number that it has just drawn.

_POLL_SECONDS = 0.05


def rendezvous(store: Any, *, rank: int, world: int, seconds: float) -> str:
    """The name of the session of all `world` processes, which make this call together.

    Raises `StageError` when not all of them have come within some seconds.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        missing = set(range(1, world))
        _wait(lambda: _all_told(store, own, missing), seconds, "not all processes of the run have come")
        return own
    store.set(f"hello/{rank}", own)
    _wait(lambda: store.check([f"session/{own}"]), seconds, "process 0 of the run has not come")
    session: str = store.get(f"session/{own}").decode()
    store.set(f"{session}/here/{rank}", b"1")
    return session


def _all_told(store: Any, session: str, missing: set[int]) -> bool:
    """Tell the session to all who wait; a number that an earlier start has left is replaced in time."""
    for rank in list(missing):
        if store.check([f"{session}/here/{rank}"]):
            missing.remove(rank)
        elif store.check([f"hello/{rank}"]):
            store.set(f"session/{store.get(f'hello/{rank}').decode()}", session)
    return not missing


def _wait(until: Callable[[], bool], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            raise StageError(f"{complaint} within {seconds:.0f} seconds")
        time.sleep(_POLL_SECONDS)


_TRAINING_TIMEOUT = timedelta(minutes=10)
"""For the exchange of gradients: a file system that stalls is waited for, a process that hangs is not."""
_CONTROL_TIMEOUT = timedelta(hours=1)
"""While process 0 saves or measures, the others wait for its word."""
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")


@dataclass
class _Membership:
    """This process's place among the others; `control` is a group of gloo's, for all that is no gradient.

    `active` says that all of them work on the same now (see `collectives.together`),
    `own` says that the group of all processes is ours, and not one that a user's program had before.
    """

    store: Any = None
    control: Any = None
    active: bool = False
    own: bool = False
    groups: int = 0


membership = _Membership()


def store() -> Any:
    """The part of torchrun's key-value store that is these processes' own; the first call meets them all.

    Raises `StageError` when some of them do not come.
    """
    if membership.store is None:
        from torch.distributed.rendezvous import rendezvous as torchruns

        whole, rank, world = next(torchruns("env://", timeout=_TRAINING_TIMEOUT))
        whole = dist.PrefixStore("jstc", whole)  # type: ignore[attr-defined]
        # Process 0 may look at its input, or measure, for any time before it calls; torchrun ends the others
        # when it fails.
        patience = math.inf if rank else _TRAINING_TIMEOUT.total_seconds()
        session = rendezvous(whole, rank=rank, world=world, seconds=patience)
        membership.store = dist.PrefixStore(session, whole)  # type: ignore[attr-defined]
    return membership.store


def join(where: torch.device) -> None:
    """Join the group of all processes, once; returns when all of them are there.

    Gradients travel by NCCL between GPUs and by gloo between CPUs, everything else by gloo.
    """
    if dist.is_initialized() and membership.control is not None:
        return
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if where.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"group/{membership.groups}", store()),  # type: ignore[attr-defined]
            rank=processes.rank(),
            world_size=processes.world(),
            timeout=_TRAINING_TIMEOUT,
        )
        membership.groups, membership.own = membership.groups + 1, True
    membership.control = dist.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT)


def join_if_several(where: torch.device) -> None:
    """Join the group of a program that torchrun started as several processes.

    Raises `InputError` when that program has not made its group yet: it would find ours in its way.
    """
    if not processes.several():
        return
    if not dist.is_initialized():
        raise InputError(
            "torchrun has started several processes that have not met yet",
            "call torch.distributed.init_process_group() before",
        )
    join(where)


def leave() -> None:
    """Leave the group; does nothing for a process that is in none. A group that was there before stays."""
    if membership.control is not None and dist.is_initialized():
        dist.destroy_process_group(None if membership.own else membership.control)
    membership.control, membership.own = None, False


def is_lost(error: BaseException) -> bool:
    """Whether `error` means that another process is gone."""
    if isinstance(error, dist.DistError):
        return True
    # gloo and NCCL have no type for it; a `RuntimeError` of ours never passes here.
    return type(error) is RuntimeError and any(word in str(error).lower() for word in _LOST)
