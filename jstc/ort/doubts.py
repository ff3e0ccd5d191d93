"""How far a measured speed-up can be believed, and how it is told: once, for the terminal and every report.

A gain is certain only where its interval is narrow, the machine had little else to do, it is not more than
the FLOPs explain, and the two median times beside it say the same. Otherwise it is uncertain, with the
reasons; and what has a wide interval is told as `about 5x`. Nothing is measured here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jstc.core import processes
from jstc.core.numbers import coarse_ratio, ratio
from jstc.ort.statistics import WIDE, Ratio
from jstc.summary import Network, Target, Timing

__all__ = [
    "NO_GAIN",
    "WORDS",
    "Disturbance",
    "Doubt",
    "Speed",
    "Standing",
    "Watch",
    "disturbance",
    "most",
    "speed",
    "speed_of",
    "verdict",
]


NO_GAIN = 1.05
"""A speed-up up to here is called none: less than users notice, and than machines vary."""

_BEYOND = 1.1
"""A tenth more than the FLOPs explain: caches and memory may give that much, and a neighbour much more."""
_APART = 1.05
"""Two medians have another quotient than the median of the quotients; on a calm machine by 1 %."""
_OF_FULL_PRECISION = (None, "fp32")  # others gain by their arithmetic, too, of which the FLOPs know nothing

Standing = Literal["gain", "uncertain", "no gain", "unclear"]
WORDS: dict[Standing, str] = {
    "gain": "gain",
    "uncertain": "uncertain",
    "no gain": "no gain",
    "unclear": "within the noise",
}


def verdict(ratio: Ratio) -> Literal["gain", "no gain", "unclear"]:
    """What a speed-up amounts to, by the two decimals that people are shown."""
    if round(ratio.median, 2) <= NO_GAIN:
        return "unclear" if ratio.is_wide and ratio.high > NO_GAIN else "no gain"
    return "unclear" if ratio.low <= 1 else "gain"


class Doubt(NamedTuple):
    """A reason, in words that stand behind a figure."""

    kind: Literal["wide", "busy", "beyond", "apart"]
    text: str


@dataclass(frozen=True)
class Speed:
    """A speed-up over the target network, whether it is one, and the reasons to doubt its figure."""

    row: Timing
    doubts: tuple[Doubt, ...]

    @property
    def standing(self) -> Standing:
        """Gain or not; files without verdicts are taken at their word."""
        if self.row.verdict == "no gain":
            return "no gain"
        if self.row.verdict not in (None, "gain"):
            return "unclear"
        return "uncertain" if self.doubts else "gain"

    @property
    def is_small_gain(self) -> bool:
        """Whether it is certainly above 1, and yet counts as none."""
        return self.standing == "no gain" and (self.row.ratio_low or 0.0) > 1

    @property
    def is_wide(self) -> bool:
        """Whether the interval leaves the figure open."""
        return any(doubt.kind == "wide" for doubt in self.doubts)

    @property
    def figure(self) -> str:
        """`1.46x`; `5x` where no more is known."""
        low, high, value = self.row.ratio_low, self.row.ratio_high, self.row.speedup
        if value is None or low is None or high is None or not self.is_wide:
            return ratio(value)
        return coarse_ratio(value, low, high)

    @property
    def text(self) -> str:
        """`1.46x`, or `about 5x`."""
        return f"about {self.figure}" if self.is_wide else self.figure

    @property
    def mark(self) -> str:
        """` (uncertain)`, and nothing behind a gain that is certain."""
        return "" if self.standing == "gain" else f" ({WORDS[self.standing]})"

    @property
    def reasons(self) -> str:
        """Why its figure is to be doubted, in one phrase; empty where there is no reason."""
        return ", ".join(doubt.text for doubt in self.doubts)

    @property
    def with_interval(self) -> str:
        """`5.38x (1.31 to 7.27)`."""
        low, high = self.row.ratio_low, self.row.ratio_high
        interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        return ratio(self.row.speedup_vs_target) + interval


def speed(row: Timing, *, target: Timing | None, ideal: float | None = None) -> Speed:
    """Judgement of a row that was measured beside `target`.

    `ideal` is the ratio of the FLOPs, where the row does not have it.
    """
    return Speed(row, tuple(_doubts(row, target, row.flops_ratio or ideal)))


def speed_of(network: Network, row: Timing, target: Target) -> Speed:
    """Judgement of the row of a network that was cut from `target`."""
    ideal = target.flops / network.slim.flops if target.flops and network.slim.flops else None
    precisions = {file.file: file.precision for file in network.files}
    if row.precision is None and row.file in precisions:
        row = row.model_copy(update={"precision": precisions[row.file]})
    return speed(row, target=network.target_row(row), ideal=ideal)


def disturbance(row: Timing) -> Disturbance:
    """What else the processor did while the row was measured."""
    found = row.disturbance
    return Disturbance(found.others, found.waited, found.stolen) if found else Disturbance()


def _doubts(row: Timing, target: Timing | None, ideal: float | None) -> Iterator[Doubt]:
    value = row.speedup
    if value is None:
        return
    if _is_wide(row):
        yield Doubt("wide", "its interval is wide")
    if disturbance(row).is_busy:
        yield Doubt("busy", "the machine was busy")
    # A file with more FLOPs than the first is expected to be slower, by how much does not matter.
    if ideal and value > max(_BEYOND * ideal, 1.0) and row.precision in _OF_FULL_PRECISION:
        yield Doubt("beyond", f"it is more than the {ratio(ideal)} that the FLOPs explain")
    if target is not None and target.median_ms and row.median_ms:
        quotient = target.median_ms / row.median_ms
        if not 1 / _APART <= quotient / value <= _APART:
            yield Doubt("apart", f"the median times alone would give {ratio(quotient)}")


def _is_wide(row: Timing) -> bool:
    return row.ratio_low is not None and row.ratio_high is not None and row.ratio_high > WIDE * row.ratio_low


# What else the processor did while something was measured, as Linux counts it in /proc.
#
# The load of the minute before says little: after a training it is our own. So the time of the measuring
# itself is looked at: what other programs took of the processor, how long our threads stood ready and
# waited for a core (neighbours in the container, its limit, other programs), and what the host gave to
# other machines. On other systems the load of the minute before stands in, less all that this process can
# have had in it.


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
