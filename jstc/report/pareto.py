"""Accuracy against FLOPs over several budgets, as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jstc.report import figures
from jstc.report.pictures import canvas
from jstc.report.pictures.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pareto"]


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
        _draw(axes, known, reference)
        return canvas.svg(drawn, title=_title(known, reference))


def _known(point: Mapping[str, Any]) -> bool:
    values = (point.get("flops"), point.get("accuracy"))
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _title(known: Sequence[Mapping[str, Any]], reference: Mapping[str, Any] | None) -> str:
    told = [f"{figures.percent(p['accuracy'])} at {figures.count(p['flops'])} FLOPs" for p in known]
    if reference is not None:
        told.append(
            f"target network {figures.percent(reference['accuracy'])} at {figures.count(reference['flops'])}"
        )
    return "Accuracy against FLOPs: " + ", ".join(told)


def _draw(axes: Axes, known: Sequence[Mapping[str, Any]], reference: Mapping[str, Any] | None) -> None:
    places = [(point["flops"], 100 * point["accuracy"]) for point in known]
    axes.plot(*zip(*places, strict=True), color=canvas.BLUE, linewidth=1.6, marker="o", markersize=6)
    labels = [_label(point) for point in known]
    if reference is not None:
        places.append((reference["flops"], 100 * reference["accuracy"]))
        axes.axhline(places[-1][1], color=canvas.ORANGE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.plot(*places[-1], color=canvas.ORANGE, marker="D", markersize=6.5, linestyle="none")
        labels.append(_label({"label": "target", **reference}))
    _finish(axes, places)
    colours = [canvas.INK] * len(known) + [canvas.ORANGE]
    place_labels(axes, places, list(zip(labels, colours, strict=False)))


def _label(point: Mapping[str, Any]) -> str:
    return f"{point.get('label') or figures.count(point['flops'])}: {100 * point['accuracy']:.2f} %"


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
