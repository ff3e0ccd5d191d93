"""All pictures of a run, and what the report says of them."""

from __future__ import annotations

from pathlib import Path

from jstc.core import files
from jstc.report.plots import searching, tradeoff, training, widths
from jstc.report.plots.canvas import Picture, read_story

__all__ = ["LIST", "draw"]

LIST = "report/pictures.json"


def draw(run: Path) -> list[Picture]:
    """Draw what the run at `run` has given into its folder `report`, with the list of it in pictures.json.

    What a run does not have is not drawn. Raises `RunDirectoryError` for damaged documents.
    """
    story = read_story(run)
    found = [drawn for module in (training, widths, searching) if (drawn := module.draw(story))]
    found += tradeoff.draw(story)
    for drawing in found:
        files.write_text(run / drawing.picture.file, drawing.svg)
    pictures = [drawing.picture for drawing in found]
    files.write_json(run / LIST, {"pictures": [picture.to_dict() for picture in pictures]})
    return pictures
