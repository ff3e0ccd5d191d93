"""The report stage of several budgets."""

from __future__ import annotations

from jstc import files
from jstc.pipeline.context import StageContext

__all__ = ["report"]


def report(context: StageContext) -> None:
    """Write the summary, both reports and the picture of the trade-off from what all budgets left."""
    from jstc import report as reporting
    from jstc.report.pareto import pareto

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
