"""The search, drawn: plans that were judged without training, widths along the network, round by round."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jstc.core.numbers import percent, share
from jstc.report.collect import RunData
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing, known_numbers, times_100
from jstc.report.search import Candidate, best_of, loss_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_candidates", "draw_depths", "draw_scores", "draw_search"]

_FEWEST = 2  # of whatever is drawn


class _Searched(Protocol):
    """Whatever has candidates, and a summary with `search.contributions` and `groups`."""

    @property
    def candidates(self) -> Sequence[Candidate]: ...

    @property
    def summary(self) -> Any: ...


# --- the plans that were judged without training ----------------------------------------------------------

_CANDIDATES_CAPTION = (
    "Plans in the order in which they were judged, each by the loss of the network that it cuts out of the "
    "given one, without training; lower is better. Each generation of plans is made around the best ones "
    "of the one before.{coarse}"
)
_COARSE = " Shaded: the coarse ones, in which groups move together that are alike in depth and cost."
_MOST_COMMON, _ABOVE = 0.9, 1.25  # losses that set the scale; how far beyond these the picture may go


def draw_candidates(data: _Searched) -> Drawing | None:
    """Losses of the candidates, the best so far and the evenly narrow plan; None for fewer than two."""
    found = data.candidates
    losses = known_numbers([one.loss for one in found])
    best = best_of(found)
    if len(losses) < _FEWEST or best is None:
        return None
    parts = data.summary.search.contributions
    even = parts[0].loss if parts else None
    alt = f"Losses of {len(found)} plans judged without training: at first {loss_text(losses[0])}, "
    alt += f"the best {loss_text(best.loss)}"
    alt += f", the evenly narrow one {loss_text(even)}" if even is not None else ""
    num_coarse = sum(one.coarse for one in found)
    with canvas.figure(3.9) as drawn:
        axes = drawn.add_subplot()
        _draw_losses(axes, found, even)
        _finish_candidates(axes, len(found), num_coarse)
        drawn.legend(loc="outside lower left", frameon=False, fontsize=9.5)
        text = canvas.svg(drawn, title=alt)
    caption = _CANDIDATES_CAPTION.format(coarse=_COARSE if num_coarse else "")
    return Drawing("report/candidates.svg", "Plans judged without training", alt, caption, text, "search")


def _draw_losses(axes: Axes, found: Sequence[Candidate], even: float | None) -> None:
    canvas.plain(axes)
    top = _top([one.loss for one in found], even)
    numbered = list(enumerate(found, 1))
    dots = [(place, one.loss) for place, one in numbered if one.loss <= top]
    small = len(found) > _MANY
    axes.plot(
        *zip(*dots, strict=True), "o", color=canvas.BLUE, markersize=2.6 if small else 4, alpha=0.55,
        label="a plan",
    )  # fmt: skip
    out = [place for place, one in numbered if not one.loss <= top]
    if out:
        label = "a plan that ended early, or lies above"
        axes.plot(out, [top] * len(out), "x", color=canvas.GREY, markersize=3.5, clip_on=False, label=label)
    _draw_generations(axes, numbered, top)
    lowest = list(itertools.accumulate((_or_infinite(one.loss) for one in found), min))
    places = [place for place, loss in enumerate(lowest, 1) if loss <= top]
    axes.step(
        places, [lowest[place - 1] for place in places], where="post", color=canvas.PURPLE, linewidth=1.8,
        label=f"the best so far, at last {loss_text(lowest[-1])}",
    )  # fmt: skip
    if even is not None:
        axes.axhline(
            even, color=canvas.ORANGE, linewidth=1.4, linestyle=(0, (5, 3)),
            label=f"the evenly narrow plan: {loss_text(even)}",
        )  # fmt: skip


def _draw_generations(axes: Axes, numbered: Sequence[tuple[int, Candidate]], top: float) -> None:
    label: str | None = "mean of a generation's best quarter"
    for _, group in itertools.groupby(numbered, key=lambda pair: pair[1].generation):
        members = list(group)
        best = sorted(_or_infinite(one.loss) for _, one in members)[: max(1, len(members) // 4)]
        mean = statistics.fmean(best)
        if len(members) >= _FEWEST and mean <= top:
            ends = [members[0][0] - 0.3, members[-1][0] + 0.3]
            axes.plot(ends, [mean] * 2, "-", color=canvas.INK, linewidth=1.6, label=label)
            label = None


def _or_infinite(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _top(losses: Sequence[float], even: float | None) -> float:
    """The highest loss that is drawn in its place: a few hopeless ones would make all others one line."""
    values = sorted(known_numbers(losses))
    shown = [values[math.ceil(_MOST_COMMON * (len(values) - 1))], *([] if even is None else [even])]
    limit = values[0] + _ABOVE * (max(shown) - values[0])
    return min(max(*values, *shown), limit) if limit > values[0] else values[-1]


def _finish_candidates(axes: Axes, number: int, num_coarse: int) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = 0.5, number + 0.5
    axes.set_xlim(low, high)
    axes.set_title("loss without training", pad=canvas.PHASE_PAD)
    if num_coarse:
        axes.axvspan(low, num_coarse + 0.5, color=canvas.SHADE, linewidth=0, zorder=0)
        fine = f"{number - num_coarse} fine" if number > num_coarse else ""
        canvas.name_phases(axes, [f"{num_coarse} coarse", fine], num_coarse / number)
    axes.margins(y=0.08)
    axes.locator_params(axis="y", nbins=6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("plan")


# --- widths along the network -----------------------------------------------------------------------------

_DEPTHS_CAPTION = (
    "How much of each group of channels is kept, in the order of the network. Thin lines: the mean of a "
    "generation's plans, the later the darker. Thick line: the plan {which}."
)
_FAINT = "#c3d3e2"
_MARKED = 40  # groups that get a mark each


def draw_depths(data: _Searched) -> Drawing | None:
    """Kept shares along the network, a line a generation; None for fewer than two groups or generations."""
    known = [one for one in data.candidates if one.shares]
    best = best_of(known)
    generations = [
        _means([one.shares for one in group])
        for _, group in itertools.groupby(known, key=lambda one: one.generation)
    ]
    if best is None or len(generations) < _FEWEST or len(best.shares) < _FEWEST:
        return None
    groups = data.summary.groups
    kept = [group.kept for group in groups if group.kept is not None]
    chosen = len(kept) == len(groups) == len(best.shares)
    plan = [count / group.width for count, group in zip(kept, groups, strict=True)] if chosen else best.shares
    first, last = generations[0], generations[-1]
    alt = (
        f"Kept shares of {len(plan)} groups over {len(generations)} generations: from {_range(first)} in the "
        f"first to {_range(last)} in the last; {_range(plan)} in the plan {'chosen' if chosen else 'found'}"
    )
    with canvas.figure(3.4) as drawn:
        _draw_shares(drawn.add_subplot(), generations, plan)
        text = canvas.svg(drawn, title=alt)
    which = "that was chosen in the end" if chosen else "with the lowest loss so far"
    caption = _DEPTHS_CAPTION.format(which=which)
    return Drawing("report/depths.svg", "Widths along the network", alt, caption, text, "search")


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def _range(shares: Sequence[float]) -> str:
    return f"{share(min(shares), 1)} to {share(max(shares), 1)}"


def _draw_shares(axes: Axes, generations: Sequence[Sequence[float]], plan: Sequence[float]) -> None:
    from matplotlib.colors import to_hex, to_rgb
    from matplotlib.ticker import MaxNLocator

    canvas.plain(axes)
    places = range(1, len(plan) + 1)
    faint, dark = to_rgb(_FAINT), to_rgb(canvas.BLUE)
    for number, shares in enumerate(generations):
        part = number / (len(generations) - 1)
        red, green, blue = ((1 - part) * a + part * b for a, b in zip(faint, dark, strict=True))
        colour = to_hex((red, green, blue))
        axes.plot(places, times_100(shares), "-", color=colour, linewidth=1.1)
    marker = "o" if len(plan) <= _MARKED else ""
    axes.plot(
        places, times_100(plan), marker=marker, color=canvas.PURPLE, markersize=4, linewidth=2.2, zorder=4
    )
    axes.set_title("channels kept (%)")
    axes.set_ylim(0, None)
    axes.margins(x=0.03)
    axes.locator_params(axis="y", nbins=6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.set_xlabel("group of channels, in the order of the network")


# --- the search, round by round ---------------------------------------------------------------------------

_SEARCH_CAPTION = (
    "The search, round by round. Top: accuracy of each round's sub-network on the search-validation split "
    "(dots), and its moving mean (line). {gaps}{more}Shaded: coarse rounds."
)
_GAPS = "Rounds that were not judged have no dot: the line through them is dotted. "
_OVERLAP = "Overlap: how much of a plan was in the plan before it (1: nothing changed). "
_SPREAD = "Gates: standard deviation of the gates alpha, by which channels are told apart. "
_FEW, _MANY = 5, 60  # rounds: for a mean, for small marks


@dataclass(frozen=True)
class _Panel:
    title: str
    values: list[float]
    colour: str


def draw_search(data: RunData) -> Drawing | None:
    """Accuracy, and how far plans and gates still change; None for a search of fewer than two rounds."""
    rounds = [one.number for one in data.rounds]
    accuracy = times_100([one.accuracy for one in data.rounds])
    panels = [
        _Panel("search-validation accuracy (%)", accuracy, canvas.BLUE),
        _Panel("overlap of successive plans", [one.overlap for one in data.rounds], canvas.GREEN),
    ]
    spread = [one.alpha_spread for one in data.rounds]
    if any(known_numbers(spread)):  # it is 0 where gates are not learned
        panels.append(_Panel("spread of the gates alpha", spread, canvas.PURPLE))
    panels = [panel for panel in panels if len(known_numbers(panel.values)) >= _FEWEST]
    if not panels or panels[0].colour != canvas.BLUE:
        return None
    alt = f"The search in {len(rounds)} rounds: " + ", ".join(_ends(panels))
    with canvas.figure(0.7 + 1.55 + 1.05 * (len(panels) - 1)) as drawn:
        heights = [1.7, 1.0, 1.0][: len(panels)]
        grid = drawn.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw_panel(axes, rounds, panel)
        _shade(list(grid[:, 0]), rounds, [one.number for one in data.rounds if one.coarse])
        _mark_chosen(grid[0, 0], data.chosen_round or 0, dict(zip(rounds, accuracy, strict=True)))
        _finish_search(grid[-1, 0], rounds)
        text = canvas.svg(drawn, title=alt)
    colours = {panel.colour for panel in panels}
    more = (_OVERLAP if canvas.GREEN in colours else "") + (_SPREAD if canvas.PURPLE in colours else "")
    gaps = _GAPS if len(known_numbers(accuracy)) < len(accuracy) else ""
    caption = _SEARCH_CAPTION.format(gaps=gaps, more=more)
    if data.searches_widths:
        return Drawing("report/search.svg", "Round by round", alt, caption, text, "search")
    return Drawing("report/search.svg", "The search", alt, caption, text, "training")


_SCORES_CAPTION = (
    "The search, round by round. Top: the score that was told of each round's network (dots), and its moving "
    "mean (line); higher is better. {overlap}{shaded}"
)


def draw_scores(scores: Sequence[float], overlaps: Sequence[float], num_coarse: int) -> Drawing | None:
    """A user's scores, and how far plans still change; None for fewer than two rounds that were judged."""
    panels = [
        _Panel("score", list(scores), canvas.BLUE),
        _Panel("overlap of successive plans", list(overlaps), canvas.GREEN),
    ]
    panels = [panel for panel in panels if len(known_numbers(panel.values)) >= _FEWEST]
    if not panels or panels[0].colour != canvas.BLUE:
        return None
    rounds, judged = list(range(1, len(scores) + 1)), known_numbers(scores)
    alt = f"The search in {len(rounds)} rounds: score from {judged[0]:.4g} to {judged[-1]:.4g}"
    with canvas.figure(0.7 + 1.55 + 1.05 * (len(panels) - 1)) as drawn:
        grid = drawn.subplots(
            len(panels), sharex=True, squeeze=False, height_ratios=[1.7, 1.0][: len(panels)]
        )
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw_panel(axes, rounds, panel)
        _shade(list(grid[:, 0]), rounds, rounds[:num_coarse])
        _finish_search(grid[-1, 0], rounds)
        text = canvas.svg(drawn, title=alt)
    caption = _SCORES_CAPTION.format(
        overlap=_OVERLAP if len(panels) > 1 else "", shaded="Shaded: coarse rounds." if num_coarse else ""
    ).strip()
    return Drawing("report/search.svg", "Round by round", alt, caption, text, "search")


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Means over `window` values around each one, fewer at the ends; what is no number is left out."""
    half = window // 2
    around = (known_numbers(values[max(0, at - half) : at + half + 1]) for at in range(len(values)))
    return [sum(found) / len(found) if found else math.nan for found in around]


def _draw_panel(axes: Axes, rounds: Sequence[int], panel: _Panel) -> None:
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
        means = dict(zip(places, moving_mean(values, window), strict=True))
        if len(means) < len(rounds):
            axes.plot(places, list(means.values()), color=panel.colour, linewidth=1, linestyle=(0, (1, 2)))
        axes.plot(rounds, [means.get(at, math.nan) for at in rounds], color=panel.colour, linewidth=1.8)
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


def _mark_chosen(axes: Axes, number: int, accuracy: dict[int, float]) -> None:
    place = accuracy.get(number, math.nan)
    if not math.isfinite(place):
        return
    ring = axes.plot(number, place, "o", markersize=9, color=canvas.ORANGE, fillstyle="none")
    ring[0].set_markeredgewidth(1.8)
    told = [f"round {number}: the plan chosen"]
    axes.legend(ring, told, loc="lower right", frameon=False, handletextpad=0.3, borderpad=0.1)


def _finish_search(axes: Axes, rounds: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(rounds) <= 8:
        axes.set_xticks(rounds)


def _ends(panels: Sequence[_Panel]) -> Iterator[str]:
    for panel in panels:
        first, last = known_numbers(panel.values)[0], known_numbers(panel.values)[-1]
        if panel.colour == canvas.BLUE:
            yield f"search-validation accuracy from {percent(first / 100)} to {percent(last / 100)}"
        else:
            dip = min(known_numbers(panel.values))
            between = f", at least {dip:.2f}" if f"{dip:.2f}" not in {f"{first:.2f}", f"{last:.2f}"} else ""
            yield f"{panel.title} from {first:.2f} to {last:.2f}{between}"
