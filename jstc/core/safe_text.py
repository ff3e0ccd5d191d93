r"""Text from files made safe to show: a name could move the cursor, turn a line round, or end it.

One definition for the terminal, reports, model cards, and the script beside exported files, which has it as
text: a regular expression in plain ASCII.
"""

from __future__ import annotations

import re

__all__ = ["UNSAFE", "in_json", "one_line", "visible"]

# What a terminal obeys: controls; separators of lines, and marks that turn the direction of writing; halves
# of characters, which no file can hold.
_BEYOND_ASCII = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"

UNSAFE = rf"[\x00-\x1f{_BEYOND_ASCII}]"
"""A regular expression of what is no part of a line of text."""

_IN_A_LINE = re.compile(UNSAFE)
_IN_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{_BEYOND_ASCII}]")


def visible(text: str) -> str:
    r"""The text with what a terminal would obey, but tab and line end, as an escape: `\x1b`."""
    return _IN_LINES.sub(_escape, text)


def one_line(text: str) -> str:
    r"""The text with what a terminal would obey as an escape, line ends too: `\n`."""
    return _IN_A_LINE.sub(_escape, text)


def in_json(text: str) -> str:
    r"""Escape the text of a JSON document as `visible` does, in its own form: `\u009b`."""
    return _IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
