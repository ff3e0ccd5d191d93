"""The page of a run with several budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jstc.report.page import facts
from jstc.report.page.cuts import Cuts, cuts
from jstc.report.page.inline import inline
from jstc.report.page.rendering import WIDTH, Section, render
from jstc.report.page.speed import sweep_panels
from jstc.report.page.sweep_verdicts import sweep_verdicts
from jstc.report.pareto import pareto
from jstc.report.sweep_markdown import sweep_headline
from jstc.report.sweep_summary import build_sweep, points
from jstc.report.sweep_table import sweep_table

__all__ = ["sweep_html"]


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
        "machine": facts.environment(summary["environment"]),
        "seconds": facts.seconds(summary["seconds"]),
        "artifacts": [],
        "recipe_text": (run / "recipe.yaml").read_text(encoding="utf-8"),
    }
    return render("sweep.html.j2", content, sections=_sections(content))


def _sections(content: dict[str, Any]) -> list[Section]:
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
