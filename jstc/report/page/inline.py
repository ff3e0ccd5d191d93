"""matplotlib's pictures inside the page: colours of its theme, ids of their own, nothing to fetch."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from jstc.report.pictures import canvas

__all__ = ["COLOURS", "inline"]

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
