"""The whole page of a run, of one budget or of several."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from jstc.core import numbers
from jstc.report import tables
from jstc.report.markdown import sweep_headline
from jstc.report.notes import amount, headline, title
from jstc.report.page import sections
from jstc.report.page.sections import Cuts, cuts, panels, profiles, sweep_panels
from jstc.report.page.verdicts import sweep_verdicts, tiles, verdicts
from jstc.report.plots import canvas, searching, tradeoff, training, widths
from jstc.report.plots.canvas import Drawing, Story, read_story
from jstc.report.plots.tradeoff import pareto
from jstc.report.summary import build_sweep, is_sweep, points, read, read_recipe
from jstc.report.tables import sweep_table, table

__all__ = ["COLOURS", "WIDTH", "Section", "environment", "html", "inline", "render", "sweep_html"]

# The templates of the page, in which every text is escaped.

_FIGURES = ("bytesize", "count", "duration", "milliseconds", "percent", "points", "ratio", "share", "tiny")
_STRONG = re.compile(r"\*\*(.+?)\*\*")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
_POWER = re.compile(r"\b(\d(?:\.\d)?)e([+-]\d\d)\b")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]|[kMG]B|bytes|ms|s|min|h|points)(?!\w))|(?<=batch) (?=\d)")
_TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, with the filters that write figures."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("jstc.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    found.filters |= {name: getattr(numbers, name) for name in _FIGURES}
    found.filters |= {"strong": _strong, "typed": _typed, "percents": _percents, "place": _place}
    found.filters |= {"stays": widths.stays, "costs": widths.costs, "amount": amount}
    found.globals |= {"ideal_share": tables.ideal_share, "columns": sections.columns}
    return found


def _strong(text: str) -> Markup:
    """`**so**` in bold."""
    return Markup(_STRONG.sub(r"<strong>\1</strong>", str(escape(_typed(text)))))


def _typed(text: str) -> str:
    """Figures as they are printed: a minus is no hyphen, a unit stays with its number, 4.2e-06 is a power."""
    text = _POWER.sub(lambda found: f"{found[1]}{_TIMES}10{_raised(found[2])}", text)
    return _UNIT.sub("\N{NO-BREAK SPACE}", _MINUS.sub("\N{MINUS SIGN}", text))


def _raised(exponent: str) -> str:
    return str(int(exponent)).translate(_RAISED)


def _percents(value: float) -> str:
    """A place in a picture, in percent of its width: 0.499 -> `49.90%`."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def _place(value: float) -> str:
    """What is in percent already."""
    return _percents(value / 100)


# What pages are made of: sections under headings, in one document.

WIDTH = 4.3
"""Of a picture, in inches: two stand side by side on a wide screen, and the text can be read on a phone."""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; `name` is its anchor and its template."""

    name: str
    heading: str


def render(template: str, content: dict[str, Any], *, sections: Sequence[Section]) -> str:
    """A page of these sections."""
    found = environment().get_template(f"page/{template}")
    return found.render(**content, sections=sections).strip() + "\n"


# matplotlib's pictures inside the page: colours of its theme, ids of their own, nothing to fetch.

COLOURS = {
    canvas.BLUE: "blue",
    canvas.ORANGE: "orange",
    canvas.GREEN: "green",
    canvas.PURPLE: "purple",
    canvas.INK: "ink",
    canvas.GREY: "soft",
    canvas.PALE: "track",
    canvas.SHADE: "shade",
    canvas.CARD: "card",
}
"""The colours of a picture, and the variables of the page's style that stand in their place."""

_HEAD = re.compile(r"\A<svg[^>]*?viewBox=\"([^\"]+)\"[^>]*>")
_DROPPED = re.compile(r"<(metadata|title|style)\b.*?</\1>", re.DOTALL)
_EMPTY = re.compile(r"<defs>\s*</defs>")
_ID = re.compile(r'\s*\bid="([^"]*)"')
_USED = re.compile(r'(?:xlink:href="#|url\(#)([^")]+)')
_DIGITS = re.compile(r"(\.\d\d)\d+")
_SPACE = re.compile(r"\s*\n\s*")


def inline(svg: str, *, name: str, title: str, told: str) -> Markup:
    """`svg`, the text of a file, as an element of the page.

    `name` is the picture's own, by which its ids differ from those of others; `title` and `told`, what it
    shows in words, are read aloud.
    """
    head = _HEAD.match(svg)
    assert head, "matplotlib's SVG has a view box"
    body = _EMPTY.sub("", _DROPPED.sub("", svg[head.end() :]))
    opening = (
        f'<svg class="plot" viewBox="{head[1]}" role="img" aria-labelledby="{name}-title {name}-told">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-told">{escape(told)}</desc>'
    )
    return Markup(opening + _themed(_named(_short(body), name)).strip())


def _short(body: str) -> str:
    """A hundredth of a point is finer than any screen; lines of a path may be joined."""
    return _SPACE.sub(lambda found: " " if found.start() else "", _DIGITS.sub(r"\1", body))


def _named(body: str, name: str) -> str:
    """Only ids that are used stay."""
    used = set(_USED.findall(body))
    body = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    return _USED.sub(
        lambda found: ("url(#" if found[0].startswith("url") else 'href="#') + f"{name}-{found[1]}", body
    )


def _themed(body: str) -> str:
    for colour, variable in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    return body


# The page of a run with several budgets.


def sweep_html(run: Path) -> str:
    """The common report of all budgets of the run at `run`, as one HTML document."""
    summary = build_sweep(run)
    header, rows = sweep_table(summary, wide=True)
    content = {
        "summary": summary,
        "title": f"{summary['model']} on {summary['dataset']} at {len(summary['sweep'])} budgets",
        "headline": sweep_headline(summary),
        "verdicts": sweep_verdicts(summary),
        "header": header,
        "rows": rows,
        "tradeoff": _picture(summary),
        "panels": sweep_panels(summary),
        "cuts": [(row["label"], found) for row in summary["sweep"] if (found := _cuts(row, summary))],
        "machine": sections.environment(summary["environment"]),
        "seconds": sections.seconds(summary["seconds"]),
        "artifacts": [],
        "recipe_text": (run / "recipe.yaml").read_text(encoding="utf-8"),
    }
    return render("sweep.html.j2", content, sections=_sweep_sections(content))


def _sweep_sections(content: dict[str, Any]) -> list[Section]:
    wanted = (
        ("budgets", "The networks side by side", True),
        ("notes", "What to know", content["summary"]["notes"]),
        ("speeds", "Speed", content["panels"]),
        ("widths", "What was cut where", content["cuts"]),
        ("each", "Each budget", True),
        ("machine", "Environment", content["machine"]),
        ("reproduce", "How to reproduce", True),
    )
    return [Section(name, heading) for name, heading, there in wanted if there]


def _cuts(row: dict[str, Any], summary: dict[str, Any]) -> Cuts | None:
    return cuts(row | {"target": summary["target"]})


def _picture(summary: dict[str, Any]) -> list[dict[str, Any]]:
    found, target = points(summary)
    svg = pareto(found, target=target, width=WIDTH)
    if svg is None:
        return []
    heading = "Accuracy against FLOPs"
    told = ", ".join(f"{point['label']} {100 * point['accuracy']:.2f} %" for point in found)
    caption = "Every network at its FLOPs. Up and to the left is better."
    if target is not None:
        caption += " The dashed line is the target network trained alone."
    return [
        {"svg": inline(svg, name="pareto", title=heading, told=told), "heading": heading, "caption": caption}
    ]


_HISTORY = ((training, "training", "Accuracy over the training"), (searching, "search", "The search"))


def html(run: Path) -> str:
    """The report of the run at `run` as one HTML document: the same bytes for the same files.

    Raises `RunDirectoryError` when it is no run directory, or one of its files is damaged.
    """
    if is_sweep(run):
        return sweep_html(run)
    story = read_story(run)
    summary = story.summary
    recipe, manifest = read_recipe(run), read(run, "manifest.json")
    content = {
        "summary": summary,
        "title": title(summary),
        "headline": headline(summary),
        "verdicts": verdicts(summary, recipe),
        "tiles": tiles(summary),
        "rows": table(summary),
        "cuts": cuts(summary),
        "panels": panels(summary),
        "history": _history(story),
        "tradeoff": _tradeoff(story),
        "profiles": profiles(run),
        "machine": sections.environment(summary["environment"]),
        "seconds": sections.seconds(summary["seconds"]),
        "artifacts": sections.artifacts(manifest),
        "recipe_text": (run / "recipe.yaml").read_text(encoding="utf-8"),
    }
    return render("run.html.j2", content, sections=_sections(content))


def _sections(content: dict[str, Any]) -> list[Section]:
    summary = content["summary"]
    wanted = (
        ("notes", "What to know", summary["notes"]),
        ("result", "Target and slim network", True),
        ("latency", "Latency budget", summary["latency"]),
        ("cut", "What was cut where", summary["groups"]),
        ("files", "Accuracy of each file", summary["onnx"]),
        ("speed", "Speed", summary["bench"]),
        ("time", "Where the time goes", content["profiles"]),
        ("training", "How the training went", content["history"]),
        ("stayed", "Channels that had to stay", summary["frozen"]),
        ("machine", "Environment", content["machine"]),
        ("reproduce", "How to reproduce", True),
    )
    return [Section(name, heading) for name, heading, there in wanted if there]


def _history(story: Story) -> list[dict[str, Any]]:
    drawn = [(module.draw(story, width=WIDTH), name, heading) for module, name, heading in _HISTORY]
    return [shown(drawing, name, heading) for drawing, name, heading in drawn if drawing is not None]


def _tradeoff(story: Story) -> list[dict[str, Any]]:
    drawn = enumerate(tradeoff.draw(story, width=WIDTH))
    return [shown(drawing, f"tradeoff{number}", "Accuracy against latency") for number, drawing in drawn]


def shown(drawing: Drawing, name: str, heading: str) -> dict[str, Any]:
    """A picture for the templates."""
    picture = drawing.picture
    element = inline(drawing.svg, name=name, title=heading, told=picture.alt)
    return {"svg": element, "heading": heading, "caption": picture.caption}
