"""How many channels of every group stay, and what the group's layers cost before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jstc.core.numbers import share
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing, Picture, Story
from jstc.report.tables import collapse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FILE", "Row", "costs", "draw", "flops_scale", "planned", "stays", "table_rows"]

FILE = "report/widths.svg"
MOST_ROWS = 24
_LONGEST = 30  # letters of a name
_LETTER, _SHORTEST = 5.1, 40.0  # points: a letter on average, and the least for a bar
_CAPTION = (
    "Left: the channels that stay of every group, in the order of the network. Right: FLOPs of the layers "
    "that the group takes part in, as a share of the target network's{after}. A layer between two groups "
    "counts for both, so that these shares add up to more than 100 %.{alike}"
)
_AFTER = ", before (pale) and after (dark)"
_ALIKE = (
    " A row with (n) stands for n groups alike: means, with a thin line from the smallest to the largest "
    "share."
)


@dataclass(frozen=True)
class Row:
    """A group, or several alike: widths, kept channels, and shares of the target network's FLOPs."""

    name: str
    widths: tuple[int, ...]
    kept: tuple[int, ...]
    before: float
    after: float | None

    @property
    def shares(self) -> list[float]:
        """Kept part of each group's width."""
        return [kept / width for kept, width in zip(self.kept, self.widths, strict=True)]

    @property
    def mean_share(self) -> float:
        """Mean over the groups."""
        return sum(self.shares) / len(self.shares)


def draw(story: Story) -> Drawing | None:
    """Draw the widths; nothing without groups or without a plan."""
    groups = planned(story.summary)
    if not groups:
        return None
    rows = table_rows(groups, flops_scale(story.summary))
    alt = _told(groups)
    bar, numbers = _columns(rows)
    with canvas.figure(0.5 + 0.235 * len(rows)) as drawn:
        left, right = drawn.subplots(1, 2, sharey=True, width_ratios=[bar + wide for wide in numbers])
        _widths(left, rows, 1 + numbers[0] / bar)
        _flops(right, rows, 1 + numbers[1] / bar)
        text = canvas.svg(drawn, title=alt)
    after = _AFTER if any(row.after is not None for row in rows) else ", before the cut"
    alike = _ALIKE if any(len(row.widths) > 1 for row in rows) else ""
    return Drawing(Picture(FILE, alt, _CAPTION.format(after=after, alike=alike)), text)


# --- rows -------------------------------------------------------------------------------------------------


def table_rows(groups: Sequence[Mapping[str, Any]], scale: float | None) -> list[Row]:
    """At most `MOST_ROWS` rows; groups whose names differ in numbers only share one, as far as needed.

    `scale` turns shares of the slim network's FLOPs into shares of the target network's; None: not known.
    """
    sets = collapse([group["name"] for group in groups], enough=MOST_ROWS)
    rows = [_row(alike.pattern, [groups[index] for index in alike.members], scale) for alike in sets]
    if len(rows) <= MOST_ROWS:
        return rows
    # Names that no pattern joins: the rows that cost most stay, the rest is one row at the end.
    by_cost = sorted(range(len(rows)), key=lambda at: -rows[at].before * len(rows[at].widths))
    shown, rest = sorted(by_cost[: MOST_ROWS - 1]), by_cost[MOST_ROWS - 1 :]
    others = [groups[index] for at in sorted(rest) for index in sets[at].members]
    return [*(rows[at] for at in shown), _row("others", others, scale)]


def _row(name: str, groups: Sequence[Mapping[str, Any]], scale: float | None) -> Row:
    # The end of a name says which part of which block it is.
    short = name if len(name) <= _LONGEST else "…" + name[-_LONGEST + 1 :].lstrip(".")
    label = f"{short} ({len(groups)})" if len(groups) > 1 else short
    after = _mean([group.get("flops_share_slim") for group in groups])
    return Row(
        label,
        tuple(group["width"] for group in groups),
        tuple(group["kept"] for group in groups),
        _mean([group["flops_share"] for group in groups]) or 0.0,
        None if after is None or scale is None else after * scale,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there and len(there) == len(values) else None


def planned(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups that a plan says something of."""
    return [group for group in summary["groups"] if group["kept"] is not None and group["width"]]


def flops_scale(summary: Mapping[str, Any]) -> float | None:
    """Turns shares of the slim network's FLOPs into shares of the target network's."""
    slim, target = summary["slim"]["flops"], summary["target"]["flops"]
    return slim / target if slim and target else None


# --- drawing ----------------------------------------------------------------------------------------------


def _columns(rows: Sequence[Row]) -> tuple[float, list[float]]:
    """Points for the bars of a column, and for the numbers behind those of either column."""
    numbers = [_LETTER * max(len(text(row)) for row in rows) + 6 for text in (stays, costs)]
    names = _LETTER * max(len(row.name) for row in rows)
    return max(_SHORTEST, (72 * canvas.WIDTH - names - sum(numbers) - 24) / 2), numbers


def _widths(axes: Axes, rows: Sequence[Row], room: float) -> None:
    _prepare(axes, rows, "channels kept", 1.0, stays)
    axes.set_xlim(0, room)
    places = range(len(rows))
    axes.barh(places, [1.0] * len(rows), height=0.66, color=canvas.PALE)
    axes.barh(places, [row.mean_share for row in rows], height=0.66, color=canvas.BLUE)
    for place, row in enumerate(rows):
        if min(row.shares) < max(row.shares):
            axes.plot([min(row.shares), max(row.shares)], [place] * 2, "|-", color=canvas.INK, linewidth=1)
    axes.set_yticks(places, [row.name for row in rows], fontsize=9, color=canvas.INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _flops(axes: Axes, rows: Sequence[Row], room: float) -> None:
    largest = max(max(row.before, row.after or 0.0) for row in rows) or 1.0
    _prepare(axes, rows, "share of FLOPs", largest, costs)
    axes.set_xlim(0, room * largest)
    places = range(len(rows))
    before = canvas.PALE if any(row.after is not None for row in rows) else canvas.ORANGE
    axes.barh(places, [row.before for row in rows], height=0.66, color=before)
    axes.barh(places, [row.after or 0.0 for row in rows], height=0.66, color=canvas.ORANGE)


def _prepare(axes: Axes, rows: Sequence[Row], title: str, longest: float, text: Callable[[Row], str]) -> None:
    """No lines, and a number behind every bar."""
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_title(title, pad=3)
    for place, row in enumerate(rows):
        axes.annotate(
            text(row), (longest, place), (4, 0), textcoords="offset points", va="center", fontsize=9
        )


def stays(row: Row) -> str:
    """`8 of 16`, with the range of several groups."""
    return f"{_range(row.kept)} of {_range(row.widths)}"


def costs(row: Row) -> str:
    """`31.0 → 20.0 %` of the target network's FLOPs, as far as it is known."""
    before = share(row.before, 1)
    return before if row.after is None else f"{100 * row.before:.1f} → {share(row.after, 1)}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}\N{EN DASH}{high}"


# --- words ------------------------------------------------------------------------------------------------


def _told(groups: Sequence[Mapping[str, Any]]) -> str:
    kept, width = (sum(group[key] for group in groups) for key in ("kept", "width"))
    told = f"{kept} of {width} channels stay ({share(kept, width)}) in {len(groups)} group"
    if len(groups) == 1:
        return told
    by_share = sorted(groups, key=lambda group: group["kept"] / group["width"])
    least, most = by_share[0], by_share[-1]
    return f"{told}s: least in {_named(least)}, most in {_named(most)}"


def _named(group: Mapping[str, Any]) -> str:
    return f"{group['name']} ({group['kept']} of {group['width']})"
