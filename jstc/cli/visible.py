"""Text from files, made safe to print: names in them could otherwise move the cursor or reorder a line."""

from __future__ import annotations

import re

__all__ = ["in_json", "visible"]

# Controls but tab and line end, marks that turn the direction of writing, halves of characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with what a terminal would obey as an escape: `\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def in_json(text: str) -> str:
    r"""The same for the text of a JSON document, in its own form: `\u009b`."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
