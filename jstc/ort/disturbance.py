"""What else the processor did while something was measured, as Linux counts it in /proc.

The load of the minute before says little: after a training it is our own. So the time of the measuring itself
is looked at: what other programs took of the processor, how long our threads stood ready and waited for a
core (neighbours in the container, its limit, other programs), and what the host gave to other machines. On
other systems the load of the minute before stands in, less all that this process can have had in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jstc.core import processes

__all__ = ["Disturbance", "Watch", "most"]

_OTHERS, _WAITED, _STOLEN = 0.5, 0.05, 0.05
_SHORTEST = 0.2  # seconds: the counts of /proc/stat have steps of a hundredth of one
_IDLE, _WAITING_FOR_DISK, _STEAL, _COLUMNS = 3, 4, 7, 8  # columns of /proc/stat; those behind are in others


@dataclass(frozen=True)
class Disturbance:
    """Shares, from 0 to 1; None for what cannot be found out.

    `others`: time of all cores that other programs took; `waited`: time that our threads waited for a core,
    of all in which they had something to do; `stolen`: time of all cores that the host did not give.
    """

    others: float | None = None
    waited: float | None = None
    stolen: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether times that were taken meanwhile are to be doubted."""
        limits = ((self.others, _OTHERS), (self.waited, _WAITED), (self.stolen, _STOLEN))
        return any(found is not None and found > limit for found, limit in limits)

    @property
    def told(self) -> str:
        """What there was of it, in words: `other programs took 61 % of the processor`."""
        return self.words()

    def words(self, up_to: str = "") -> str:
        """What there was of it, with `up_to` before each share."""
        phrases = (
            (self.others, _OTHERS / 2, "other programs took {}{:.0%} of the processor"),
            (self.waited, _WAITED, "the measured threads waited {}{:.0%} of their time for a core"),
            (self.stolen, _STOLEN, "the host gave {}{:.0%} of the processor to others"),
        )
        known = ((value, least, text) for value, least, text in phrases if value is not None)
        return ", ".join(text.format(up_to, value) for value, least, text in known if value > least).replace(
            "%", " %"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)


def most(found: Sequence[Disturbance]) -> Disturbance:
    """The largest of each share, over measurements of which some may not know it."""
    names = ("others", "waited", "stolen")
    known = ([value for one in found if (value := getattr(one, name)) is not None] for name in names)
    return Disturbance(*(max(values, default=None) for values in known))


class Watch:
    """Counts while it is entered as a context; `found` sums up."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._begin = self._end = _Counts()
        self._load: float | None = None

    def __enter__(self) -> Watch:
        self._begin = self._counts()
        self._load = _load_of_others() if self._begin.total is None else None
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._counts()

    @property
    def found(self) -> Disturbance:
        """What there was between entering and leaving; nothing is known of a moment."""
        before, after = self._begin, self._end
        if after.clock - before.clock < _SHORTEST:
            return Disturbance()
        others, stolen, waited = self._load, None, None
        if before.total is not None and after.total is not None and after.total > before.total:
            total = after.total - before.total
            stolen = _share(after.stolen - before.stolen, total)
            others = _share(after.busy - before.busy - (after.own - before.own), total)
        if before.waited is not None and after.waited is not None:
            waiting, running = after.waited - before.waited, after.own - before.own
            waited = _share(waiting, waiting + running)
        return Disturbance(others, waited, stolen)

    def _counts(self) -> _Counts:
        own, clock = time.process_time(), time.perf_counter()
        total = busy = stolen = None
        first = _first_line(self._proc / "stat").split()
        if first[:1] == ["cpu"] and len(first) > _COLUMNS:
            ticks = [int(text) / os.sysconf("SC_CLK_TCK") for text in first[1 : _COLUMNS + 1]]
            total, stolen = sum(ticks), ticks[_STEAL]
            busy = total - stolen - ticks[_IDLE] - ticks[_WAITING_FOR_DISK]
        return _Counts(clock, own, total, busy or 0.0, stolen or 0.0, self._waited())

    def _waited(self) -> float | None:
        """Seconds that the threads of this process have waited for a core, so far."""
        texts = [_first_line(path) for path in (self._proc / "self" / "task").glob("*/schedstat")]
        fields = [text.split() for text in texts if text]
        return sum(int(found[1]) for found in fields) / 1e9 if fields else None


@dataclass(frozen=True)
class _Counts:
    """Seconds since the machine or the process began."""

    clock: float = 0.0
    own: float = 0.0
    total: float | None = None
    busy: float = 0.0
    stolen: float = 0.0
    waited: float | None = None


def _share(part: float, whole: float) -> float:
    return round(min(max(part / whole, 0.0), 1.0), 3) if whole > 0 else 0.0


def _load_of_others() -> float | None:
    """Share of the cores that others kept busy in the last minute, at least."""
    cores = processes.usable_cores()
    if not hasattr(os, "getloadavg") or not cores:
        return None
    own = sum(os.times()[:4]) / 60  # of this process and its children, were it all of that minute
    return _share(os.getloadavg()[0] - own, cores)


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.readline()
    except OSError:  # not Linux, or a thread that has ended
        return ""
