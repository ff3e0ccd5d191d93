"""How far a measured speed-up can be believed, and how it is told: once, for the terminal and every report.

A gain is certain only where its interval is narrow, the machine had little else to do, it is not more than
the FLOPs explain, and the two median times beside it say the same. Otherwise it is uncertain, with the
reasons; and what has a wide interval is told as `about 5x`. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jstc.core.numbers import coarse_ratio, ratio
from jstc.ort.disturbance import Disturbance
from jstc.ort.statistics import WIDE, Ratio
from jstc.summary import Network, Target, Timing

__all__ = ["NO_GAIN", "WORDS", "Doubt", "Speed", "Standing", "disturbance", "speed", "speed_of", "verdict"]

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
    if ideal and value > _BEYOND * ideal and row.precision in _OF_FULL_PRECISION:
        yield Doubt("beyond", f"it is more than the {ratio(ideal)} that the FLOPs explain")
    if target is not None and target.median_ms and row.median_ms:
        quotient = target.median_ms / row.median_ms
        if not 1 / _APART <= quotient / value <= _APART:
            yield Doubt("apart", f"the median times alone would give {ratio(quotient)}")


def _is_wide(row: Timing) -> bool:
    return row.ratio_low is not None and row.ratio_high is not None and row.ratio_high > WIDE * row.ratio_low
