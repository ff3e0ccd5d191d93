"""How every picture of the report looks, and how it becomes SVG: the same bytes for the same data.

Colours are for an opaque, nearly white card, so that a picture reads the same on a white page and a dark one;
the palette is Okabe and Ito's, which people with any kind of colour vision can tell apart. Text stays text.
matplotlib loads when the first picture is drawn.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jstc.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE", "GREEN", "GREY", "INK", "ORANGE", "PALE", "PHASE_PAD", "PURPLE", "SHADE", "WIDTH",
    "figure", "name_phases", "plain", "short_count", "spread", "svg",
]  # fmt: skip

WIDTH = 6.0  # inches; 576 px as a browser shows it, so that the text survives on a phone
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#00795a", "#a8497f"
INK, GREY, PALE, SHADE, CARD = "#1f2328", "#59636e", "#d5dae0", "#e9edf2", "#fbfcfd"

PHASE_PAD = 20  # points between the axes and their title

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text can be searched, read aloud, and scales with the page
    "svg.hashsalt": "jstc",  # else ids of clip paths are random
    "font.family": "sans-serif",
    # Bundled with matplotlib, so the layout is everywhere the same; the others are for the viewer.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.linewidth": 0.8,
    "axes.facecolor": CARD,
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}
_HASHED = re.compile(r"\b[a-z][0-9a-f]{10}\b")
_HASHED_ID = re.compile(r'id="([a-z][0-9a-f]{10})"')
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextlib.contextmanager
def figure(height: float, *, width: float = WIDTH) -> Iterator[Figure]:
    """An empty figure of `width` x `height` inches; draw and `save` it inside the `with`.

    The user's own matplotlib settings neither change it nor are they changed.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {key: v for key, v in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context(settings | _STYLE):
        found = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(found)  # measures text; nothing is shown
        yield found


def svg(drawn: Figure, *, title: str) -> str:
    """`drawn` as the text of an SVG file; `title` is read aloud and shown as a tooltip."""
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={**_NO_METADATA, "Title": title})
    body = text.getvalue()
    # Without a document type, which a strict viewer would fetch.
    return _numbered(body[body.index("<svg") :])


def _numbered(svg: str) -> str:
    """The same picture with the ids of clip paths and markers numbered in the order of their appearance.

    matplotlib makes them from positions in full precision, of which the last digits differ from one process
    to another: two drawings of one run would differ in nothing else.
    """
    names = dict.fromkeys(_HASHED_ID.findall(svg))
    numbers = {name: f"{name[0]}{number}" for number, name in enumerate(names)}
    return _HASHED.sub(lambda found: numbers.get(found[0], found[0]), svg)


def plain(axes: Axes, *, grid: str = "y") -> None:
    """No frame but the lower and left line, and a faint grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=3)
    axes.grid(axis=grid, color=PALE, linewidth=0.6)  # type: ignore[arg-type]


def name_phases(axes: Axes, names: Sequence[str], split: float) -> None:
    """Names of two phases above the axes: up to `split`, a fraction of their width, and from there on.

    Room for one line must be there: give the title a `pad` of `PHASE_PAD`.
    """
    for name, left, right in zip(names, (0.0, split), (split, 1.0), strict=True):
        fits = right - left > 0.016 * len(name)
        place, side = (
            ((left + right) / 2, "center") if fits else (0.0, "left") if not left else (1.0, "right")
        )
        if name and right > left:
            axes.annotate(
                name, (place, 1), (0, 4), xycoords="axes fraction", textcoords="offset points",
                ha=side, color=GREY, fontsize=9.5,
            )  # fmt: skip


def short_count(value: float) -> str:
    """2000000 -> `2 M`, for the marks of an axis."""
    number, _, unit = figures.count(value).partition(" ")
    return f"{float(number):g} {unit}".strip()


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels: near `values`, in their order, and at least `gap` apart."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    placed = [float(values[index]) for index in order]
    for _ in range(100):
        for lower, upper in zip(range(len(placed)), range(1, len(placed)), strict=False):
            lacking = gap - (placed[upper] - placed[lower])
            if lacking > 1e-9:
                placed[lower] -= lacking / 2
                placed[upper] += lacking / 2
    result = [0.0] * len(values)
    for place, index in zip(placed, order, strict=True):
        result[index] = place
    return result
