"""Networks drawn: accuracy against FLOPs and against latency, and how wide a network's groups are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jstc.core import numbers
from jstc.core.accuracy import wilson
from jstc.core.numbers import percent, share
from jstc.report.collect import PARETO
from jstc.report.groups import WidthRow, WidthRows, width_rows
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing
from jstc.summary import GroupWidth, Summary, SweepSummary, Target, Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_pareto", "draw_tradeoffs", "draw_widths"]

# --- accuracy against FLOPs, a mark a budget --------------------------------------------------------------


class _Point(NamedTuple):
    flops: float
    accuracy: float
    label: str


def draw_pareto(summary: SweepSummary) -> Drawing | None:
    """Every network with known FLOPs and accuracy; None when these are fewer than two with the target."""
    points = [
        _Point(row.slim.flops, row.slim.accuracy, row.label)
        for row in summary.sweep
        if row.slim.flops is not None and row.slim.accuracy is not None
    ]
    points.sort(key=lambda point: point.flops)
    before = _before(summary.target)
    if not points or len(points) + len(before) < 2:
        return None
    told = [f"{percent(point.accuracy)} at {numbers.count(point.flops)} FLOPs" for point in points]
    told += [f"{one.label} network {percent(one.accuracy)} at {numbers.count(one.flops)}" for one in before]
    alt = "Accuracy against FLOPs: " + ", ".join(told)
    images = next((row.finetune.test_images for row in summary.sweep if row.finetune.test_images), None)
    with canvas.figure(3.4) as drawn:
        _draw_budgets(drawn.add_subplot(), points, before, images)
        text = canvas.svg(drawn, title=alt)
    caption = "Every network at its FLOPs. Up and to the left is better."
    if before:
        which = "given network as it came" if before[0].label == "given" else "target network trained alone"
        caption += f" The dashed line is the {which}."
    caption += _BARS.format(images) if images else ""
    return Drawing(PARETO, "Accuracy against FLOPs", alt, caption, text, "budgets")


def _before(target: Target) -> list[_Point]:
    """The uncut network as it was given and as it was trained alone; what is not known is left out."""
    known = (("given", target.accuracy_before), ("target", target.accuracy))
    flops = target.flops
    return [_Point(flops, value, label) for label, value in known if value is not None and flops is not None]


_BARS = " Thin bars are the 95 % intervals of accuracies on {:,} images."


def _draw_intervals(axes: Axes, places: Sequence[tuple[float, float]], images: int | None) -> list[float]:
    """A thin bar through every place, whose height is an accuracy in percent; all heights that are drawn."""
    if not images:
        return [accuracy for _, accuracy in places]
    ends = []
    for across, accuracy in places:
        low, high = (100 * end for end in wilson(accuracy / 100 * images, images))
        axes.plot([across] * 2, [low, high], "_-", color=canvas.GREY, linewidth=1, markersize=5, zorder=1.5)
        ends += [low, high]
    return ends


def _draw_budgets(axes: Axes, points: Sequence[_Point], before: Sequence[_Point], images: int | None) -> None:
    shown = [*points, *before]
    places = [(point.flops, 100 * point.accuracy) for point in shown]
    across, up = ([place[side] for place in places] for side in (0, 1))
    line = slice(len(points))
    axes.plot(across[line], up[line], color=canvas.BLUE, linewidth=1.6, marker="o", markersize=6)
    for one in before[:1]:  # what changes are counted from
        axes.axhline(100 * one.accuracy, color=canvas.ORANGE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for place in places[len(points) :]:
        axes.plot(*place, color=canvas.ORANGE, marker="D", markersize=6.5, linestyle="none")
    canvas.plain(axes, grid="both")
    ends = _draw_intervals(axes, places, images)
    room = (max(ends) - min(ends)) or 1.0
    axes.set_xlim(0, 1.12 * max(across))
    axes.set_ylim(min(ends) - 0.35 * room, max(ends) + 0.25 * room)
    axes.set_title("accuracy on the test split (%) against FLOPs")
    axes.xaxis.set_major_formatter(lambda value, _: canvas.short_count(value))
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("FLOPs of the network (one multiply-add is one)")
    labels = [
        (f"{point.label}: {percent(point.accuracy)}", canvas.ORANGE if point in before else canvas.INK)
        for point in shown
    ]
    canvas.place_labels(axes, places, labels)


# --- accuracy of every ONNX file against its latency: what a precision costs, and what it gains -----------

_TRADEOFF_CAPTION = (
    "Accuracy on the test split against the median latency in onnxruntime, {batch}. Up and to the left is "
    "better."
)
_TARGET = "target"
_FEWEST, _MOST = 2, 4  # files of the slim network; providers
_STYLES = {"fp32": ("o", canvas.BLUE), "fp16": ("s", canvas.GREEN), "int8": ("^", canvas.PURPLE)}


class _Mark(NamedTuple):
    label: str
    milliseconds: float
    accuracy: float


def draw_tradeoffs(summary: Summary) -> list[Drawing]:
    """A picture for each provider; none unless several files were scored and timed."""
    smallest = min((row.batch for row in summary.bench if row.batch is not None), default=1)
    rows = [row for row in summary.bench if row.batch == smallest]
    found = []
    for provider in list(dict.fromkeys(row.provider or "" for row in rows))[:_MOST]:
        marks = _marks(summary, [row for row in rows if row.provider == provider])
        if sum(mark.label != _TARGET for mark in marks) >= _FEWEST:
            tested = summary.finetune.test_images
            found.append(_draw_tradeoff(provider, marks, f"batch {smallest}", tested))
    return found


def _marks(summary: Summary, rows: Sequence[Timing]) -> list[_Mark]:
    known = {file.file: (file.precision or "", file.accuracy) for file in summary.files}
    targets = {row.file for row in summary.target_rows}
    marks: dict[str, _Mark] = {}
    for row in rows:
        target = (_TARGET, None if summary.reference is None else summary.reference.value)
        label, accuracy = target if row.file in targets else known.get(row.file, ("", None))
        if accuracy is not None and row.median_ms is not None:
            marks.setdefault(label, _Mark(label, row.median_ms, accuracy))
    return list(marks.values())


def _draw_tradeoff(provider: str, marks: Sequence[_Mark], batch: str, images: int | None) -> Drawing:
    told = (
        f"{one.label} {percent(one.accuracy)} in {numbers.milliseconds(one.milliseconds)}" for one in marks
    )
    alt = f"Accuracy against latency on {provider} {', '.join(told)}"
    with canvas.figure(3.2) as drawn:
        axes = drawn.add_subplot()
        canvas.plain(axes, grid="both")
        axes.set_title(f"accuracy (%) on {provider}, {batch}")
        axes.set_xlabel("median latency (ms)")
        _draw_marks(axes, marks, images)
        text = canvas.svg(drawn, title=alt)
    file = re.sub(r"\W", "_", provider)
    caption = _TRADEOFF_CAPTION.format(batch=batch) + (_BARS.format(images) if images else "")
    return Drawing(f"report/tradeoff-{file}.svg", "Accuracy against latency", alt, caption, text, "files")


def _draw_marks(axes: Axes, marks: Sequence[_Mark], images: int | None) -> None:
    places = [(mark.milliseconds, 100 * mark.accuracy) for mark in marks]
    styles = [
        ("D", canvas.ORANGE) if mark.label == _TARGET else _STYLES.get(mark.label, ("v", canvas.INK))
        for mark in marks
    ]
    for place, (shape, colour) in zip(places, styles, strict=True):
        axes.plot(*place, shape, color=colour, markersize=7)
    ends = _draw_intervals(axes, places, images)
    room = max(max(ends) - min(ends), 0.2)
    axes.set_xlim(0, 1.25 * max(across for across, _ in places))
    axes.set_ylim(min(ends) - 0.4 * room, max(ends) + 0.4 * room)
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)
    labels = [
        f"{mark.label}: {percent(mark.accuracy)}, {numbers.milliseconds(mark.milliseconds)}" for mark in marks
    ]
    canvas.place_labels(axes, places, [(text, style[1]) for text, style in zip(labels, styles, strict=True)])


# --- how many channels of every group stay, and what its layers cost before and after ---------------------

_LETTER, _SHORTEST = 5.1, 40.0  # points: a letter on average, and the least for a bar
_WIDTHS_CAPTION = (
    "Left: the channels that stay of every group, in the order of the network. Right: FLOPs of the layers "
    "that the group takes part in, as a share of the target network's{after}. A layer between two groups "
    "counts for both, so that these shares add up to more than 100 %.{alike}"
)
_AFTER = ", before (pale) and after (dark)"
_ALIKE = (
    " A row with (n) stands for n groups alike: means, with a thin line from the smallest to the largest "
    "share."
)


def draw_widths(summary: Summary) -> Drawing | None:
    """Bars of every group or of groups alike; None without groups or without a plan."""
    found = width_rows(summary, summary.target)
    if found is None:
        return None
    alt = _widths_told(found)
    bar, room = _columns(found.rows)
    with canvas.figure(0.5 + 0.235 * len(found.rows), width=canvas.WIDE) as drawn:
        left, right = drawn.subplots(1, 2, sharey=True, width_ratios=[bar + wide for wide in room])
        _draw_kept(left, found.rows, 1 + room[0] / bar)
        _draw_flops(right, found, 1 + room[1] / bar)
        text = canvas.svg(drawn, title=alt)
    caption = _WIDTHS_CAPTION.format(
        after=_AFTER if found.after else ", before the cut", alike=_ALIKE if found.joined else ""
    )
    return Drawing("report/widths.svg", "What was cut where", alt, caption, text, "")


def _columns(rows: Sequence[WidthRow]) -> tuple[float, list[float]]:
    """Points for the bars of a column, and for the numbers behind those of either column."""
    room = [
        _LETTER * max(map(len, texts)) + 6 for texts in zip(*((r.stays, r.costs) for r in rows), strict=True)
    ]
    names = _LETTER * max(len(row.name) for row in rows)
    return max(_SHORTEST, (72 * canvas.WIDE - names - sum(room) - 24) / 2), room


def _draw_kept(axes: Axes, rows: Sequence[WidthRow], room: float) -> None:
    _prepare(axes, [row.stays for row in rows], "channels kept", 1.0)
    axes.set_xlim(0, room)
    places = range(len(rows))
    axes.barh(places, [1.0] * len(rows), height=0.66, color=canvas.PALE)
    axes.barh(places, [row.mean_share for row in rows], height=0.66, color=canvas.BLUE)
    for place, row in enumerate(rows):
        if min(row.shares) < max(row.shares):
            axes.plot([min(row.shares), max(row.shares)], [place] * 2, "|-", color=canvas.INK, linewidth=1)
    axes.set_yticks(places, [row.name for row in rows], fontsize=9, color=canvas.INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _draw_flops(axes: Axes, found: WidthRows, room: float) -> None:
    _prepare(axes, [row.costs for row in found.rows], "share of FLOPs", found.largest)
    axes.set_xlim(0, room * found.largest)
    places = range(len(found.rows))
    before = canvas.PALE if found.after else canvas.ORANGE
    axes.barh(places, [row.before for row in found.rows], height=0.66, color=before)
    axes.barh(places, [row.after or 0.0 for row in found.rows], height=0.66, color=canvas.ORANGE)


def _prepare(axes: Axes, texts: Sequence[str], title: str, longest: float) -> None:
    """No lines, and a number behind every bar."""
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_title(title, pad=3)
    for place, text in enumerate(texts):
        axes.annotate(text, (longest, place), (4, 0), textcoords="offset points", va="center", fontsize=9)


def _widths_told(found: WidthRows) -> str:
    told = f"{found.kept} of {found.width} channels stay ({share(found.kept, found.width)}) in "
    told += f"{len(found.groups)} group"
    if len(found.groups) == 1:
        return told
    by_share = sorted(found.groups, key=lambda group: (group.kept or 0) / group.width)
    return f"{told}s: least in {_named(by_share[0])}, most in {_named(by_share[-1])}"


def _named(group: GroupWidth) -> str:
    return f"{group.name} ({group.kept} of {group.width})"
