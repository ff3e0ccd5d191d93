"""Accuracy against FLOPs over several budgets, as one picture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jstc.core import numbers
from jstc.report.plots import canvas
from jstc.report.plots.canvas import Drawing, Picture, Story, place_labels
from jstc.report.tables import is_target, network_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FILE", "draw", "pareto"]


def pareto(
    points: Sequence[Mapping[str, Any]],
    *,
    target: Mapping[str, Any] | None = None,
    width: float = canvas.WIDTH,
) -> str | None:
    """Draw accuracy against FLOPs, `width` inches wide: the text of an SVG file.

    Each of `points` is a slim network, {"label": "flops0.5", "flops": int, "params": int, "accuracy": float};
    `target` is the network they were cut from, with the same keys (`label` may be missing). Points without a
    finite accuracy or FLOPs are left out. When fewer than two (with the target) are left, there is no
    picture.
    """
    known = sorted((point for point in points if _known(point)), key=lambda point: point["flops"])
    reference = target if target is not None and _known(target) else None
    if not known or len(known) + (reference is not None) < 2:
        return None
    with canvas.figure(3.6, width=width) as drawn:
        axes = drawn.add_subplot()
        _draw_budgets(axes, known, reference)
        return canvas.svg(drawn, title=_title(known, reference))


def _known(point: Mapping[str, Any]) -> bool:
    values = (point.get("flops"), point.get("accuracy"))
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _title(known: Sequence[Mapping[str, Any]], reference: Mapping[str, Any] | None) -> str:
    told = [f"{numbers.percent(p['accuracy'])} at {numbers.count(p['flops'])} FLOPs" for p in known]
    if reference is not None:
        told.append(
            f"target network {numbers.percent(reference['accuracy'])} at {numbers.count(reference['flops'])}"
        )
    return "Accuracy against FLOPs: " + ", ".join(told)


def _draw_budgets(
    axes: Axes, known: Sequence[Mapping[str, Any]], reference: Mapping[str, Any] | None
) -> None:
    places = [(point["flops"], 100 * point["accuracy"]) for point in known]
    axes.plot(*zip(*places, strict=True), color=canvas.BLUE, linewidth=1.6, marker="o", markersize=6)
    labels = [_budget_label(point) for point in known]
    if reference is not None:
        places.append((reference["flops"], 100 * reference["accuracy"]))
        axes.axhline(places[-1][1], color=canvas.ORANGE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.plot(*places[-1], color=canvas.ORANGE, marker="D", markersize=6.5, linestyle="none")
        labels.append(_budget_label({"label": "target", **reference}))
    _finish(axes, places)
    colours = [canvas.INK] * len(known) + [canvas.ORANGE]
    place_labels(axes, places, list(zip(labels, colours, strict=False)))


def _budget_label(point: Mapping[str, Any]) -> str:
    return f"{point.get('label') or numbers.count(point['flops'])}: {100 * point['accuracy']:.2f} %"


def _finish(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    canvas.plain(axes, grid="both")
    across, up = ([place[side] for place in places] for side in (0, 1))
    room = (max(up) - min(up)) or 1.0
    axes.set_xlim(0, 1.12 * max(across))
    axes.set_ylim(min(up) - 0.35 * room, max(up) + 0.25 * room)
    axes.set_title("accuracy on the test split (%) against FLOPs")
    axes.xaxis.set_major_formatter(lambda value, _: canvas.short_count(value))
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("FLOPs of the network (one multiply-add is one)")


# Accuracy of every ONNX file against its latency: what a precision costs, and what it gains.

FILE = "report/tradeoff-{provider}.svg"
_CAPTION = (
    "Accuracy on the test split against the median latency in onnxruntime, {batch}. Up and to the left is "
    "better."
)
_FEWEST, _MOST = 2, 4  # files of the slim network; providers
_STYLES = {"fp32": ("o", canvas.BLUE), "fp16": ("s", canvas.GREEN), "int8": ("^", canvas.PURPLE)}


@dataclass(frozen=True)
class _Mark:
    label: str
    milliseconds: float
    accuracy: float


def draw(story: Story, *, width: float = canvas.WIDTH) -> list[Drawing]:
    """A picture for each provider, `width` inches wide; none unless several files were scored and timed."""
    batch = f"batch {_smallest(story.summary)}"
    panels = _panels(story.summary)
    return [_picture(name, marks, batch=batch, width=width) for name, marks in panels.items()]


def _picture(provider: str, marks: Sequence[_Mark], *, batch: str, width: float) -> Drawing:
    alt = f"Accuracy against latency {_told(provider, marks)}"
    with canvas.figure(3.0, width=width) as drawn:
        axes = drawn.add_subplot()
        _draw(axes, marks, title=f"accuracy (%) on {provider}, {batch}")
        axes.set_xlabel("median latency (ms)")
        _label(axes, marks)
        text = canvas.svg(drawn, title=alt)
    file = FILE.format(provider=re.sub(r"\W", "_", provider))
    return Drawing(Picture(file, alt, _CAPTION.format(batch=batch)), text)


def _panels(summary: dict[str, Any]) -> dict[str, list[_Mark]]:
    batch = _smallest(summary)
    rows = [row for row in summary["bench"] if row["batch"] == batch]
    providers = list(dict.fromkeys(row["provider"] for row in rows))[:_MOST]
    found = {name: _marks(summary, [row for row in rows if row["provider"] == name]) for name in providers}
    return {name: marks for name, marks in found.items() if _slim(marks) >= _FEWEST}


def _smallest(summary: dict[str, Any]) -> int:
    return min((row["batch"] for row in summary["bench"]), default=1)


def _slim(marks: Sequence[_Mark]) -> int:
    return sum(mark.label != "target" for mark in marks)


def _marks(summary: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[_Mark]:
    known = {file["file"]: (file["precision"], file["accuracy"]) for file in network_files(summary)}
    marks: dict[str, _Mark] = {}
    for row in rows:
        target = ("target", summary["target"]["accuracy"]) if is_target(summary, dict(row)) else None
        label, accuracy = target or known.get(row["file"], ("", None))
        if accuracy is not None:
            marks.setdefault(label, _Mark(label, row["median_ms"], accuracy))
    return list(marks.values())


def _draw(axes: Axes, marks: Sequence[_Mark], *, title: str) -> None:
    canvas.plain(axes, grid="both")
    axes.set_title(title)
    for mark in marks:
        shape, colour = _style(mark)
        axes.plot(mark.milliseconds, 100 * mark.accuracy, shape, color=colour, markersize=7)
    across, up = [mark.milliseconds for mark in marks], [100 * mark.accuracy for mark in marks]
    room = max(max(up) - min(up), 0.2)
    axes.set_xlim(0, 1.25 * max(across))
    axes.set_ylim(min(up) - 0.4 * room, max(up) + 0.4 * room)
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)


def _label(axes: Axes, marks: Sequence[_Mark]) -> None:
    places = [(mark.milliseconds, 100 * mark.accuracy) for mark in marks]
    labels = [
        (f"{mark.label}: {numbers.percent(mark.accuracy)}, {numbers.milliseconds(mark.milliseconds)}",
         _style(mark)[1])
        for mark in marks
    ]  # fmt: skip
    place_labels(axes, places, labels)


def _style(mark: _Mark) -> tuple[str, str]:
    return ("D", canvas.ORANGE) if mark.label == "target" else _STYLES.get(mark.label, ("v", canvas.INK))


def _told(name: str, marks: Sequence[_Mark]) -> str:
    told = (
        f"{mark.label} {numbers.percent(mark.accuracy)} in {numbers.milliseconds(mark.milliseconds)}"
        for mark in marks
    )
    return f"on {name} " + ", ".join(told)
