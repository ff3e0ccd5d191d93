"""The whole page of a run, of one budget or of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jstc.report.headline import headline, title
from jstc.report.page import facts
from jstc.report.page.cuts import cuts
from jstc.report.page.inline import inline
from jstc.report.page.profiles import profiles
from jstc.report.page.rendering import WIDTH, Section, render
from jstc.report.page.speed import panels
from jstc.report.page.sweep import sweep_html
from jstc.report.page.tiles import tiles
from jstc.report.page.verdicts import verdicts
from jstc.report.pictures import searching, tradeoff, training
from jstc.report.pictures.story import Drawing, Story, read_story
from jstc.report.summary import read, read_recipe
from jstc.report.sweep_summary import is_sweep
from jstc.report.tables import table

__all__ = ["html"]

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
        "machine": facts.environment(summary["environment"]),
        "seconds": facts.seconds(summary["seconds"]),
        "artifacts": facts.artifacts(manifest),
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
