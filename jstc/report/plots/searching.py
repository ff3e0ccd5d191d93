"""The search, round by round: accuracy, how much plans still change, how far the gates have come apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jstc.core.numbers import percent
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing, Picture, Story
from jstc.report.summary import column, known

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FILE", "draw"]

FILE = "report/search.svg"
_CAPTION = (
    "The search, round by round. Top: accuracy of each round's sub-network on the search-validation split, "
    "which is the reward (dots), and its moving mean (line). {more}Shaded: coarse rounds."
)
_OVERLAP = "Overlap: how much of a plan was in the plan before it (1: nothing changed). "
_SPREAD = "Gates: standard deviation of the gates alpha, by which channels are told apart. "
_FEWEST, _FEW, _MANY = 2, 5, 60  # rounds: for a picture, for a mean, for small marks


@dataclass(frozen=True)
class _Panel:
    title: str
    values: list[float]
    colour: str


def draw(story: Story, *, width: float = canvas.WIDTH) -> Drawing | None:
    """Draw the search, `width` inches wide; nothing for a search of fewer than two rounds."""
    rounds = [number for number, _ in story.own_rounds]
    records = [record for _, record in story.own_rounds]
    panels = [
        _Panel("search-validation accuracy (%)", _times_100(column(records, "accuracy")), canvas.BLUE),
        _Panel("overlap of successive plans", column(records, "overlap"), canvas.GREEN),
    ]
    spread = column(records, "alpha_spread")
    if any(known(spread)):  # it is 0 where gates are not learned
        panels.append(_Panel("spread of the gates alpha", spread, canvas.PURPLE))
    panels = [panel for panel in panels if len(known(panel.values)) >= _FEWEST]
    if not panels or panels[0].colour != canvas.BLUE:
        return None
    coarse = [
        number for number, record in zip(rounds, records, strict=True) if record.get("phase") == "coarse"
    ]
    alt = _told(panels, len(rounds))
    with canvas.figure(0.7 + 1.55 + 1.05 * (len(panels) - 1), width=width) as drawn:
        heights = [1.7, 1.0, 1.0][: len(panels)]
        grid = drawn.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw(axes, rounds, panel)
        _shade(list(grid[:, 0]), rounds, coarse)
        _mark_chosen(grid[0, 0], story, rounds, panels[0].values)
        _finish(grid[-1, 0], rounds)
        text = canvas.svg(drawn, title=alt)
    return Drawing(Picture(FILE, alt, _caption(panels)), text)


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Means over `window` values around each one, fewer at the ends; what is no number is left out."""
    half = window // 2
    around = (known(values[max(0, at - half) : at + half + 1]) for at in range(len(values)))
    return [sum(found) / len(found) if found else math.nan for found in around]


def _times_100(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _draw(axes: Axes, rounds: Sequence[int], panel: _Panel) -> None:
    canvas.plain(axes)
    axes.set_title(panel.title)
    axes.locator_params(axis="y", nbins=4)
    axes.margins(y=0.12)
    many = len(rounds) > _MANY
    if panel.colour == canvas.BLUE:
        # Rounds below the budget are not all judged: the mean is of those that were.
        judged = [place for place in zip(rounds, panel.values, strict=True) if math.isfinite(place[1])]
        places, values = [place for place, _ in judged], [value for _, value in judged]
        axes.plot(places, values, "o", color=panel.colour, markersize=2.6 if many else 4, alpha=0.55)
        window = 2 * (max(3, len(values) // 10) // 2) + 1 if len(values) > _FEW else 1
        axes.plot(places, moving_mean(values, window), color=panel.colour, linewidth=1.8)
    else:
        style = "" if many else "o"
        axes.plot(rounds, panel.values, marker=style, color=panel.colour, markersize=3, linewidth=1.4)


def _shade(grid: Sequence[Axes], rounds: Sequence[int], coarse: Sequence[int]) -> None:
    """Coarse rounds, which come first."""
    low, high = rounds[0] - 0.5, rounds[-1] + 0.5
    end = (
        (coarse[-1] + min((n for n in rounds if n > coarse[-1]), default=coarse[-1] + 1)) / 2
        if coarse
        else low
    )
    for axes in grid:
        axes.set_xlim(low, high)
        if coarse:
            axes.axvspan(low, end, color=canvas.SHADE, linewidth=0, zorder=0)
    if coarse:
        grid[0].set_title(grid[0].get_title(loc="left"), pad=canvas.PHASE_PAD)
        fine = f"{len(rounds) - len(coarse)} fine" if len(rounds) > len(coarse) else ""
        canvas.name_phases(grid[0], [f"{len(coarse)} coarse rounds", fine], (end - low) / (high - low))


def _mark_chosen(axes: Axes, story: Story, rounds: Sequence[int], values: Sequence[float]) -> None:
    chosen = story.results["search"].get("round_of_plan")  # counted from 0
    number = chosen + 1 if isinstance(chosen, int) else 0
    place = dict(zip(rounds, values, strict=True)).get(number, math.nan)
    if not math.isfinite(place):
        return
    ring = axes.plot(number, place, "o", markersize=9, color=canvas.ORANGE, fillstyle="none")
    ring[0].set_markeredgewidth(1.8)
    axes.legend(
        ring,
        [f"round {number}: the plan chosen"],
        loc="lower right",
        frameon=False,
        handletextpad=0.3,
        borderpad=0.1,
    )


def _finish(axes: Axes, rounds: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(rounds) <= 8:
        axes.set_xticks(rounds)


def _caption(panels: Sequence[_Panel]) -> str:
    colours = {panel.colour for panel in panels}
    more = (_OVERLAP if canvas.GREEN in colours else "") + (_SPREAD if canvas.PURPLE in colours else "")
    return _CAPTION.format(more=more)


def _told(panels: Sequence[_Panel], count: int) -> str:
    return f"The search in {count} rounds: " + ", ".join(_ends(panels))


def _ends(panels: Sequence[_Panel]) -> Iterator[str]:
    for panel in panels:
        first, last = known(panel.values)[0], known(panel.values)[-1]
        if panel.colour == canvas.BLUE:
            yield f"search-validation accuracy from {percent(first / 100)} to {percent(last / 100)}"
        else:
            dip = min(known(panel.values))
            between = f", at least {dip:.2f}" if f"{dip:.2f}" not in {f"{first:.2f}", f"{last:.2f}"} else ""
            yield f"{panel.title} from {first:.2f} to {last:.2f}{between}"
