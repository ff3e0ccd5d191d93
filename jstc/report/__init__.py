"""The report of a run: summary.json, report.md, report.html and pictures, from the files it left. No torch.

`collect` reads the run, `findings` judges it, `rendering`, `page` and `plots` show it.
"""

from __future__ import annotations

from pathlib import Path

from jstc.core import files
from jstc.report import plots
from jstc.report.collect import PARETO, PICTURES, RunData, SweepData, is_sweep, read_run, read_sweep
from jstc.report.page import html as page_of
from jstc.report.rendering import markdown
from jstc.report.search import brief as brief_search
from jstc.report.stage_files import unreadable_images
from jstc.report.tables import TableRow, sweep_table, table
from jstc.report.task import TaskData, is_task, read_task, task_html, task_markdown, task_table
from jstc.summary import Summary, SweepSummary, to_document

__all__ = [
    "RunData",
    "SweepData",
    "TableRow",
    "TaskData",
    "brief_search",
    "html",
    "is_task",
    "markdown",
    "read",
    "read_task",
    "summarise",
    "sweep_table",
    "table",
    "task_html",
    "task_markdown",
    "task_table",
    "unreadable_images",
    "write",
    "write_task",
]


def read(run: Path) -> RunData | SweepData:
    """The run at `run`, finished or not.

    Raises `RunDirectoryError` when it is no run directory, or one of its files is damaged.
    """
    return read_sweep(run) if is_sweep(run) else read_run(run)


def summarise(run: Path) -> Summary | SweepSummary:
    """The summary of the run at `run`, from what its stages left. Raises as `read` does."""
    return read(run).summary


def html(data: RunData | SweepData) -> str:
    """The report as one HTML page, its pictures drawn for it."""
    return page_of(data, plots.draw(data))


def write(run: Path) -> None:
    """Write the pictures of the run at `run`, then summary.json, report.md and report.html with them."""
    drawings = plots.draw(read(run))
    for drawing in drawings:
        files.write_text(run / drawing.file, drawing.svg)
    if not is_sweep(run):
        pictures = [drawing.picture.model_dump() for drawing in drawings]
        files.write_json(run / PICTURES, {"pictures": pictures})
    elif not drawings:
        (run / PARETO).unlink(missing_ok=True)
    data = read(run)  # whose summary names the pictures
    files.write_json(run / "summary.json", to_document(data.summary))
    files.write_text(run / "report.md", markdown(data))
    files.write_text(run / "report.html", page_of(data, drawings))


def write_task(folder: Path) -> TaskData:
    """Write report.md and report.html of the `JointSearch` in `folder`, and give what they were made of."""
    data = read_task(folder)
    files.write_text(folder / "report.md", task_markdown(data))
    files.write_text(folder / "report.html", task_html(data))
    return data
