"""Accuracy over the whole training: the rounds of the search, then the epochs of finetune."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jstc.core.numbers import percent
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing, Picture, Story
from jstc.report.summary import column, known

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FILE", "draw"]

FILE = "report/accuracy.svg"
_CAPTION = (
    "Accuracy over the whole training. The training accuracy is measured while training, on augmented images "
    "where the recipe augments; in the search it is that of each round's sub-network. The test split is "
    "read only at the end. Below: the learning rate, one schedule over {stages}."
)
_FEWEST = 2


@dataclass(frozen=True)
class _Curves:
    """Places and values of what is drawn; `split` is where the search ends."""

    search_x: list[float]
    finetune_x: list[float]
    search: dict[str, list[float]]
    finetune: dict[str, list[float]]
    split: float
    unit: str

    @property
    def end(self) -> float:
        return max((*self.search_x, *self.finetune_x), default=0.0)


def draw(story: Story, *, width: float = canvas.WIDTH) -> Drawing | None:
    """Draw the training, `width` inches wide; nothing when fewer than two rounds and epochs are known."""
    curves = _curves(story)
    trained = known(curves.search["train_accuracy"]) + known(curves.finetune["accuracy"])
    if len(trained) < _FEWEST:
        return None
    alt = _told(story, curves)
    rates = known(curves.search["lr"]) + known(curves.finetune["lr"])
    with canvas.figure((4.3 if rates else 3.5) + 0.3 * (width < canvas.WIDTH), width=width) as drawn:
        grid = drawn.subplots(
            2 if rates else 1, sharex=True, squeeze=False, height_ratios=[3.6, 1] if rates else [1]
        )
        _accuracies(grid[0, 0], story, curves)
        if rates:
            _rates(grid[1, 0], curves)
        _finish(drawn, list(grid[:, 0]), story, curves)
        text = canvas.svg(drawn, title=alt)
    stages = "search and finetune" if story.search and story.finetune else "the training"
    return Drawing(Picture(FILE, alt, _CAPTION.format(stages=stages)), text)


# --- places -----------------------------------------------------------------------------------------------


def _curves(story: Story) -> _Curves:
    per_round, per_epoch, unit = _lengths(story)
    split = per_round * len(story.search)
    records = [record for _, record in story.own_rounds]
    return _Curves(
        [per_round * number for number, _ in story.own_rounds],
        [split + per_epoch * number for number in range(1, len(story.finetune) + 1)],
        {key: column(records, key) for key in ("train_accuracy", "accuracy", "lr")},
        {key: column(story.finetune, key) for key in ("accuracy", "lr")},
        split,
        unit,
    )


def _lengths(story: Story) -> tuple[float, float, str]:
    """Images in a round and in an epoch, so that both have their true length; 1 when it is not known."""
    found = []
    for stage, records, times in (
        ("search", story.search, "rounds"),
        ("finetune", story.finetune, "epochs"),
    ):
        images, count = (story.results[stage].get(key) for key in ("images_seen", times))
        if isinstance(images, int) and isinstance(count, int) and images > 0 and count > 0:
            found.append(images / count)
        elif records:
            return 1.0, 1.0, "rounds of the search, then epochs"
    if not found:
        return 1.0, 1.0, "epochs"
    return found[0], found[-1], "training images seen"


# --- drawing ----------------------------------------------------------------------------------------------


def _accuracies(axes: Axes, story: Story, curves: _Curves) -> None:
    canvas.plain(axes)
    axes.set_title("accuracy (%)", pad=canvas.PHASE_PAD)
    joined = curves.search_x + curves.finetune_x
    trained = curves.search["train_accuracy"] + curves.finetune["accuracy"]
    few = len(joined) <= 60
    style = "-o" if few else "-"
    axes.plot(
        joined, _times_100(trained), style, color=canvas.BLUE, markersize=3, linewidth=1.6, label="training"
    )
    if known(curves.search["accuracy"]):
        axes.plot(
            curves.search_x,
            _times_100(curves.search["accuracy"]),
            "s" if few else ".",
            color=canvas.GREEN,
            markersize=4 if few else 3,
            alpha=0.8,
            label="search-validation",
        )
    _final(axes, story, curves)


def _final(axes: Axes, story: Story, curves: _Curves) -> None:
    """The accuracies on the test split: the slim network's as a mark, the target network's as a line."""
    slim, target = (_fraction(story.summary[name]["accuracy"]) for name in ("slim", "target"))
    if target is not None:
        axes.axhline(
            100 * target,
            color=canvas.ORANGE,
            linewidth=1.4,
            linestyle=(0, (5, 3)),
            label=f"test, target network trained alone: {percent(target)}",
        )
    if slim is not None:
        axes.plot(
            curves.end,
            100 * slim,
            "D",
            color=canvas.PURPLE,
            markersize=7,
            clip_on=False,
            zorder=5,
            label=f"test, slim network: {percent(slim)}",
        )


def _rates(axes: Axes, curves: _Curves) -> None:
    canvas.plain(axes)
    axes.set_title("learning rate")
    axes.plot(
        curves.search_x + curves.finetune_x,
        curves.search["lr"] + curves.finetune["lr"],
        color=canvas.GREY,
        linewidth=1.2,
    )
    axes.set_ylim(0, 1.15 * max(known(curves.search["lr"] + curves.finetune["lr"])) or 1.0)
    axes.locator_params(axis="y", nbins=3)


def _finish(drawn: Figure, panels: Sequence[Axes], story: Story, curves: _Curves) -> None:
    end = curves.end * 1.015  # the last mark is not cut
    for axes in panels:
        axes.set_xlim(0, end)
        if story.search and story.finetune:
            axes.axvspan(0, curves.split, color=canvas.SHADE, linewidth=0, zorder=0)
    canvas.name_phases(panels[0], _phases(story), curves.split / end if story.finetune else 1.0)
    panels[-1].xaxis.set_major_formatter(lambda value, _: canvas.short_count(value))
    panels[-1].locator_params(axis="x", nbins=6)
    panels[-1].set_xlabel(curves.unit)
    columns = 2 if drawn.get_figwidth() >= canvas.WIDTH else 1
    drawn.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=9.5, columnspacing=1.4)


def _phases(story: Story) -> list[str]:
    rounds, epochs = len(story.search), len(story.finetune)
    return [f"search: {rounds} round{'s' * (rounds != 1)}", f"finetune: {epochs} epoch{'s' * (epochs != 1)}"]


# --- words ------------------------------------------------------------------------------------------------


def _told(story: Story, curves: _Curves) -> str:
    trained = known(curves.search["train_accuracy"] + curves.finetune["accuracy"])
    told = [f"Training accuracy goes from {percent(trained[0])} to {percent(trained[-1])}"]
    slim, target = (_fraction(story.summary[name]["accuracy"]) for name in ("slim", "target"))
    if slim is not None:
        told.append(f"the slim network ends at {percent(slim)} on the test split")
    if target is not None:
        told.append(f"the target network trained alone at {percent(target)}")
    return ", ".join(told)


def _times_100(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _fraction(value: Any) -> float | None:
    finite = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if finite else None
