"""How every picture of the report looks, and how it becomes SVG: the same bytes for the same data.

A picture is drawn once, for a file and for the page. Colours are for an opaque, nearly white card, so that it
reads the same on a white page and a dark one; the palette is Okabe and Ito's, which people with any kind of
colour vision can tell apart. Text stays text. matplotlib loads when the first picture is drawn.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jstc.core import numbers
from jstc.core.safe_text import visible
from jstc.summary import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "ORANGE",
    "PALE",
    "PHASE_PAD",
    "PURPLE",
    "SHADE",
    "WIDE",
    "Drawing",
    "figure",
    "known_numbers",
    "name_phases",
    "place_labels",
    "plain",
    "short_count",
    "svg",
    "times_100",
]

WIDTH = 4.6  # inches: two stand side by side on a wide screen, and the text can be read on a phone
WIDE = 6.0  # of what has columns of names and numbers
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


@dataclass(frozen=True)
class Drawing:
    """A picture: its place in the run, its heading, what it shows in words, how to read it, its SVG.

    `section`: the one of the page that shows it; none shows the widths, which are there as a table with bars.
    """

    file: str
    heading: str
    alt: str
    caption: str
    svg: str
    section: Literal["", "budgets", "files", "search", "training"]

    @property
    def picture(self) -> Picture:
        """The entry of the picture in summary.json."""
        return Picture.model_validate({"file": self.file, "alt": self.alt, "caption": self.caption})


@contextlib.contextmanager
def figure(height: float, *, width: float = WIDTH) -> Iterator[Figure]:
    """An empty figure of `width` x `height` inches; draw on it inside the `with`, then take its `svg`.

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
    return visible(_numbered(body[body.index("<svg") :]))


def _numbered(svg: str) -> str:
    """A picture whose ids of clip paths and markers are numbered in the order of their appearance.

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


def known_numbers(values: Sequence[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if math.isfinite(value)]


def times_100(values: Sequence[float]) -> list[float]:
    """Fractions in percent."""
    return [100 * value for value in values]


def short_count(value: float) -> str:
    """2000000 -> `2 M`, for the marks of an axis."""
    number, _, unit = numbers.count(value).partition(" ")
    return f"{float(number):g} {unit}".strip()


# --- labels beside marks, where they cover neither a mark nor a line nor each other -------------------------

# Where a label may stand, in points from its mark, best first; and how its text is aligned there.
_PLACES = (
    (0, -16, "center"), (6, -14, "left"), (9, -3.5, "left"), (0, 9, "center"), (-6, 6, "right"),
    (-9, -3.5, "right"), (6, 7, "left"), (-6, -14, "right"), (0, -28, "center"), (0, 21, "center"),
)  # fmt: skip

_WEIGHT = 8  # a mark is worth more than a piece of a line


def place_labels(
    axes: Axes, places: Sequence[tuple[float, float]], labels: Sequence[tuple[str, str]]
) -> None:
    """Each label where it covers neither a mark nor another label, as far as there is such a place."""
    drawn = axes.figure
    drawn.draw_without_rendering()  # type: ignore[union-attr]
    taken = [_around(place) for place in _along(axes)]
    for (label, colour), place in zip(labels, places, strict=True):
        tried = []
        for across, up, side in _PLACES:
            text = axes.annotate(
                label, place, (across, up), textcoords="offset points", ha=side, color=colour, fontsize=9.5
            )
            box = text.get_window_extent().padded(2)
            tried.append((_covered(box, taken, axes), text, box))
            if tried[-1][0] < 1:
                break
        best = min(tried, key=lambda found: found[0])
        for found in tried:
            if found is not best:
                found[1].remove()
        taken.append(best[2])


def _along(axes: Axes) -> list[tuple[float, float]]:
    """Pixels on the marks and the lines."""
    import numpy as np

    found: list[tuple[float, float]] = []
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_xydata())
        found += [(x, y) for x, y in corners for _ in range(_WEIGHT)]
        for start, end in itertools.pairwise(corners):
            steps = max(2, int(np.hypot(*(end - start)) / 4))
            found += [tuple(place) for place in np.linspace(start, end, steps)]
    return found


def _around(place: tuple[float, float], half: float = 2.0) -> Bbox:
    from matplotlib.transforms import Bbox

    x, y = place
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _covered(box: Bbox, taken: Sequence[Bbox], axes: Axes) -> float:
    """Pixels that a label at `box` would cover, or that stand outside the axes."""
    inside = _overlap(box, axes.get_window_extent())
    return sum(_overlap(box, other) for other in taken) + box.width * box.height - inside


def _overlap(one: Bbox, other: Bbox) -> float:
    from matplotlib.transforms import Bbox

    both = Bbox.intersection(one, other)
    return 0.0 if both is None else float(both.width * both.height)
