"""How a training went, drawn: accuracy over search and finetune, and the search round by round."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jstc.core.numbers import percent
from jstc.report.collect import RunData
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_search", "draw_training"]

_FEWEST = 2  # rounds or epochs for a picture


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _times_100(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


# --- accuracy over the whole training ---------------------------------------------------------------------

_TRAINING_CAPTION = (
    "Accuracy over the whole training. The training accuracy is measured while training, on augmented images "
    "where the recipe augments; in the search it is that of each round's sub-network. The test split is "
    "read {read}. Below: the learning rate, one schedule over {stages}."
)


@dataclass(frozen=True)
class _Curves:
    """Places of the rounds and epochs on an axis of `unit`, and their values; `split`: the search's end."""

    search_x: list[float]
    finetune_x: list[float]
    trained: list[float]
    validated: list[float]
    rates: list[float]
    split: float
    unit: str

    @property
    def x(self) -> list[float]:
        return self.search_x + self.finetune_x

    @property
    def end(self) -> float:
        return max(self.x, default=0.0)


def draw_training(data: RunData) -> Drawing | None:
    """Accuracy and learning rate; None when fewer than two rounds and epochs are known."""
    curves = _curves(data)
    if len(_known(curves.trained)) < _FEWEST:
        return None
    alt = _training_told(data, curves)
    rates = bool(_known(curves.rates))
    with canvas.figure(4.6 if rates else 3.8) as drawn:
        heights = [3.6, 1] if rates else [1]
        grid = drawn.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
        _draw_accuracies(grid[0, 0], data, curves)
        if rates:
            _draw_rates(grid[1, 0], curves)
        _finish_training(list(grid[:, 0]), data, curves)
        drawn.legend(loc="outside lower left", frameon=False, fontsize=9.5)
        text = canvas.svg(drawn, title=alt)
    stages = "search and finetune" if data.num_rounds and data.epochs else "the training"
    read = (
        "before the training and at the end"
        if "given network" in data.summary.references
        else "only at the end"
    )
    caption = _TRAINING_CAPTION.format(read=read, stages=stages)
    return Drawing("report/accuracy.svg", "Accuracy over the training", alt, caption, text)


def _curves(data: RunData) -> _Curves:
    per_round, per_epoch, unit = _lengths(data)
    split = per_round * data.num_rounds
    return _Curves(
        [per_round * one.number for one in data.rounds],
        [split + per_epoch * number for number in range(1, len(data.epochs) + 1)],
        [one.train_accuracy for one in data.rounds] + [one.accuracy for one in data.epochs],
        [one.accuracy for one in data.rounds],
        [one.lr for one in data.rounds] + [one.lr for one in data.epochs],
        split,
        unit,
    )


def _lengths(data: RunData) -> tuple[float, float, str]:
    """Images in a round and in an epoch, so that both have their true length; 1 when it is not known."""
    if data.num_rounds and data.images_per_round is None:
        return 1.0, 1.0, "rounds of the search, then epochs"
    if data.epochs and data.images_per_epoch is None:
        return 1.0, 1.0, "rounds of the search, then epochs"
    found = [length for length in (data.images_per_round, data.images_per_epoch) if length is not None]
    return (found[0], found[-1], "training images seen") if found else (1.0, 1.0, "epochs")


def _draw_accuracies(axes: Axes, data: RunData, curves: _Curves) -> None:
    canvas.plain(axes)
    axes.set_title("accuracy (%)", pad=canvas.PHASE_PAD)
    few = len(curves.x) <= 60
    trained = _times_100(curves.trained)
    style = "-o" if few else "-"
    axes.plot(curves.x, trained, style, color=canvas.BLUE, markersize=3, linewidth=1.6, label="training")
    if _known(curves.validated):
        shape, size = ("s", 4) if few else (".", 3)
        values = _times_100(curves.validated)
        axes.plot(
            curves.search_x, values, shape, color=canvas.GREEN, markersize=size, alpha=0.8,
            label="search-validation",
        )  # fmt: skip
    # On the test split the slim network's accuracy is a mark, those that it is compared with are lines.
    slim, known = data.summary.scored, data.summary.references
    lines = (
        ("given network", known.get("given network"), (0, (1, 1.5))),
        ("target network trained alone", known.get("trained alone"), (0, (5, 3))),
    )
    for name, before, dashed in lines:
        if before is not None:
            label, height = f"test, {name}: {before.text}", 100 * before.value
            axes.axhline(height, color=canvas.ORANGE, linewidth=1.4, linestyle=dashed, label=label)
    if slim is not None:
        if slim.interval is not None:
            bar = [100 * end for end in slim.interval]
            axes.plot([curves.end] * 2, bar, "_-", color=canvas.PURPLE, linewidth=1, markersize=6)
        axes.plot(
            curves.end, 100 * slim.value, "D", color=canvas.PURPLE, markersize=7, clip_on=False, zorder=5,
            label=f"test, slim network: {slim.text}",
        )  # fmt: skip


def _draw_rates(axes: Axes, curves: _Curves) -> None:
    canvas.plain(axes)
    axes.set_title("learning rate")
    axes.plot(curves.x, curves.rates, color=canvas.GREY, linewidth=1.2)
    axes.set_ylim(0, 1.15 * max(_known(curves.rates)) or 1.0)
    axes.locator_params(axis="y", nbins=3)


def _finish_training(panels: Sequence[Axes], data: RunData, curves: _Curves) -> None:
    end = curves.end * 1.015  # the last mark is not cut
    rounds, epochs = data.num_rounds, len(data.epochs)
    for axes in panels:
        axes.set_xlim(0, end)
        if rounds and epochs:
            axes.axvspan(0, curves.split, color=canvas.SHADE, linewidth=0, zorder=0)
    names = [f"search: {rounds} round{'s' * (rounds != 1)}", f"finetune: {epochs} epoch{'s' * (epochs != 1)}"]
    canvas.name_phases(panels[0], names, curves.split / end if epochs else 1.0)
    panels[-1].xaxis.set_major_formatter(lambda value, _: canvas.short_count(value))
    panels[-1].locator_params(axis="x", nbins=6)
    panels[-1].set_xlabel(curves.unit)


def _training_told(data: RunData, curves: _Curves) -> str:
    trained = _known(curves.trained)
    told = [f"Training accuracy goes from {percent(trained[0])} to {percent(trained[-1])}"]
    slim, known = data.summary.scored, data.summary.references
    if slim is not None:
        told.append(f"the slim network ends at {slim.text} on the test split")
    if "trained alone" in known:
        told.append(f"the target network trained alone at {known['trained alone'].text}")
    if "given network" in known:
        told.append(f"the given network had {known['given network'].text}")
    return ", ".join(told)


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
    accuracy = _times_100([one.accuracy for one in data.rounds])
    panels = [
        _Panel("search-validation accuracy (%)", accuracy, canvas.BLUE),
        _Panel("overlap of successive plans", [one.overlap for one in data.rounds], canvas.GREEN),
    ]
    spread = [one.alpha_spread for one in data.rounds]
    if any(_known(spread)):  # it is 0 where gates are not learned
        panels.append(_Panel("spread of the gates alpha", spread, canvas.PURPLE))
    panels = [panel for panel in panels if len(_known(panel.values)) >= _FEWEST]
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
    gaps = _GAPS if len(_known(accuracy)) < len(accuracy) else ""
    caption = _SEARCH_CAPTION.format(gaps=gaps, more=more)
    return Drawing("report/search.svg", "The search", alt, caption, text)


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Means over `window` values around each one, fewer at the ends; what is no number is left out."""
    half = window // 2
    around = (_known(values[max(0, at - half) : at + half + 1]) for at in range(len(values)))
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
        first, last = _known(panel.values)[0], _known(panel.values)[-1]
        if panel.colour == canvas.BLUE:
            yield f"search-validation accuracy from {percent(first / 100)} to {percent(last / 100)}"
        else:
            dip = min(_known(panel.values))
            between = f", at least {dip:.2f}" if f"{dip:.2f}" not in {f"{first:.2f}", f"{last:.2f}"} else ""
            yield f"{panel.title} from {first:.2f} to {last:.2f}{between}"
