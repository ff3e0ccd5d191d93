"""How the processes of one start find each other in torchrun's store.

When torchrun starts them anew the store is still there, with what those before them wrote, and nothing that
all of them are told says which start it is. So process 0 names a session, and takes into it those that are
there now: each of the others shows a number that it has just drawn, and accepts the session that has it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from jstc.errors import StageError

__all__ = ["meet"]

_POLL_SECONDS = 0.05


def meet(store: Any, *, rank: int, world: int, seconds: float) -> str:
    """The name of the session of all `world` processes, which make this call together.

    Raises `StageError` when not all of them have come within some seconds.
    """
    return _invite(store, world, seconds) if rank == 0 else _join(store, rank, seconds)


def _invite(store: Any, world: int, seconds: float) -> str:
    session, others = uuid.uuid4().hex, [str(rank) for rank in range(1, world)]
    told: dict[str, str] = {}

    def all_here() -> bool:
        nonlocal told
        seen = {
            rank: store.get(f"hello/{rank}").decode() for rank in others if store.check([f"hello/{rank}"])
        }
        if seen != told:  # one that was left behind by a start before is replaced sooner or later
            store.set("session", json.dumps({"name": session, "of": seen}))
            told = seen
        return all(store.check([f"{session}/here/{rank}"]) for rank in others)

    _wait(all_here, seconds, "not all processes of the run have come")
    return session


def _join(store: Any, rank: int, seconds: float) -> str:
    own, found = uuid.uuid4().hex, ""
    store.set(f"hello/{rank}", own)

    def invited() -> bool:
        nonlocal found
        if not store.check(["session"]):
            return False
        session = json.loads(store.get("session"))
        found = session["name"]
        return bool(session["of"].get(str(rank)) == own)

    _wait(invited, seconds, "process 0 of the run has not come")
    store.set(f"{found}/here/{rank}", b"1")
    return found


def _wait(until: Callable[[], bool], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            raise StageError(f"{complaint} within {seconds:.0f} seconds")
        time.sleep(_POLL_SECONDS)
