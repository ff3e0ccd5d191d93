"""The report stage: summary.json, report.md and report.html from what the other stages left. No torch."""

from __future__ import annotations

from jstc import report as reporting
from jstc.core import files
from jstc.report import plots
from jstc.report.plots.tradeoff import pareto
from jstc.runs.workspace import StageContext

__all__ = ["report", "report_of_all"]


def report(context: StageContext) -> None:
    """Write the summary, both reports, and the pictures of the Markdown one."""
    plots.draw(context.path)  # first: the summary lists them
    summary = reporting.build(context.path)
    files.write_json(context.path / "summary.json", summary)
    files.write_text(context.path / "report.md", reporting.markdown(summary))
    files.write_text(context.path / "report.html", reporting.html(context.path))


def report_of_all(context: StageContext) -> None:
    """Write the summary, both reports and the picture of the trade-off from what several budgets left."""
    found, target = reporting.points(reporting.build_sweep(context.path))
    picture = pareto(found, target=target)
    if picture is not None:
        files.write_text(context.path / reporting.PICTURE, picture)
    else:
        (context.path / reporting.PICTURE).unlink(missing_ok=True)
    summary = reporting.build_sweep(context.path)  # which says whether there is a picture
    files.write_json(context.path / "summary.json", summary)
    files.write_text(context.path / "report.md", reporting.sweep_markdown(summary))
    files.write_text(context.path / "report.html", reporting.html(context.path))
