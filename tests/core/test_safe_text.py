"""What a terminal would obey is shown as an escape, and all other text stays as it is."""

from __future__ import annotations

import json
import re
import sys
import unicodedata

import pytest

from jstc.core.safe_text import UNSAFE, in_json, one_line, visible

TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u061c\u200e\u200f"


def test_every_control_separator_and_mark_of_direction_is_meant_and_nothing_else() -> None:
    characters = map(chr, range(sys.maxunicode + 1))
    obeyed = {
        char
        for char in characters
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(char) in TURNS
        or char in MARKS
    }
    found = set(re.findall(UNSAFE, "".join(map(chr, range(sys.maxunicode + 1)))))
    assert found == obeyed


@pytest.mark.parametrize("text", ["naïve — 日本 👩\u200d🚀", "עברית", "العربية", "a\\b `c` <d>", ""])
def test_text_stays(text: str) -> None:
    assert visible(text) == one_line(text) == in_json(text) == text


def test_line_ends_and_tabs_stay_in_text_of_several_lines_only() -> None:
    assert visible("a\tb\nc\rd") == "a\tb\nc\\rd"
    assert one_line("a\tb\nc\u2028d") == r"a\tb\nc\u2028d"


def test_the_expression_is_ascii_and_an_escaped_document_says_the_same() -> None:
    assert UNSAFE.isascii() and UNSAFE.isprintable()
    text = "\x00\x1b\x9b\u202e\ud800"
    assert json.loads(in_json(json.dumps({"a": text}, ensure_ascii=False))) == {"a": text}
