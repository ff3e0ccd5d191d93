"""How a training went, drawn: accuracy over search and finetune, and the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jstc.core.numbers import percent
from jstc.report.collect import RunData
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing, known_numbers, times_100

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_training"]

_FEWEST = 2  # rounds or epochs for a picture


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
    if len(known_numbers(curves.trained)) < _FEWEST:
        return None
    alt = _training_told(data, curves)
    rates = bool(known_numbers(curves.rates))
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
    return Drawing("report/accuracy.svg", "Accuracy over the training", alt, caption, text, "training")


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
    trained = times_100(curves.trained)
    style = "-o" if few else "-"
    axes.plot(curves.x, trained, style, color=canvas.BLUE, markersize=3, linewidth=1.6, label="training")
    if known_numbers(curves.validated):
        shape, size = ("s", 4) if few else (".", 3)
        values = times_100(curves.validated)
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
    axes.set_ylim(0, 1.15 * max(known_numbers(curves.rates)) or 1.0)
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
    trained = known_numbers(curves.trained)
    told = [f"Training accuracy goes from {percent(trained[0])} to {percent(trained[-1])}"]
    slim, known = data.summary.scored, data.summary.references
    if slim is not None:
        told.append(f"the slim network ends at {slim.text} on the test split")
    if "trained alone" in known:
        told.append(f"the target network trained alone at {known['trained alone'].text}")
    if "given network" in known:
        told.append(f"the given network had {known['given network'].text}")
    return ", ".join(told)
