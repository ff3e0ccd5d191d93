"""Which of several processes this one is, as torchrun tells it. No torch here.

The processes of a run are numbered from 0. Process 0 leads: it decides, writes and speaks; the others follow.
"""

from __future__ import annotations

import os

__all__ = ["follows", "leads", "local_rank", "local_world", "rank", "restarts", "several", "world"]


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


def restarts() -> int:
    """How often torchrun has started the processes anew (`--max-restarts`)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
