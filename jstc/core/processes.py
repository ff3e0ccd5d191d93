"""This process: which of several it is, and what it may use. No torch here.

A run may be several processes, numbered from 0, as torchrun starts them. Process 0 leads: it decides, writes
and speaks; the others follow.
"""

from __future__ import annotations

import os

__all__ = [
    "follows",
    "leads",
    "local_rank",
    "local_world",
    "rank",
    "restarts",
    "several",
    "usable_cores",
    "world",
]


def several() -> bool:
    """Whether torchrun started this process as one of several.

    Its variables count only together with the one that no other program sets: a container or a notebook may
    well have a WORLD_SIZE of its own.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and _number("WORLD_SIZE", 1) > 1


def world() -> int:
    """Number of processes, on all machines together."""
    return _number("WORLD_SIZE", 1) if several() else 1


def rank() -> int:
    """Number of this process."""
    return _number("RANK", 0) if several() else 0


def local_world() -> int:
    """Number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1) if several() else 1


def local_rank() -> int:
    """Number of this process among those on this machine, which is the number of its GPU."""
    return _number("LOCAL_RANK", 0) if several() else 0


def leads() -> bool:
    """Whether this is process 0 of several."""
    return several() and rank() == 0


def follows() -> bool:
    """Whether this is one of several, and not process 0."""
    return rank() > 0


def usable_cores() -> int:
    """Cores that this process may use: containers and job schedulers often leave fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def restarts() -> int:
    """How often torchrun has started the processes anew (`--max-restarts`)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
