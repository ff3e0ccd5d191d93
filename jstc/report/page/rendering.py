"""What pages are made of: sections under headings, in one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jstc.report.page.templates import environment

__all__ = ["WIDTH", "Section", "render"]

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
