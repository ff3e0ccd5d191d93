"""Text from files moves no cursor and turns no line around."""

from __future__ import annotations

import json

import pytest

from jstc.cli import console
from jstc.core.safe_text import in_json, visible

HOSTILE = "a\x1b[2J\x07\x9b5m\u202eb\rc\ud800\x7f"


def test_what_a_terminal_would_obey_is_shown():
    assert visible(HOSTILE) == r"a\x1b[2J\x07\x9b5m\u202eb\rc\ud800\x7f"
    assert visible("naïve — 日本 👩\u200d🚀\n\tx") == "naïve — 日本 👩\u200d🚀\n\tx"


def test_json_stays_json():
    printed = in_json(json.dumps({"name": HOSTILE}, ensure_ascii=False))
    assert printed.isprintable() and json.loads(printed) == {"name": HOSTILE}


@pytest.mark.parametrize("show", [console.text, console.note, lambda text: console.table([text], [[text]])])
def test_everything_that_is_printed_is_safe(show, capsys):
    show(f"[bold]{HOSTILE}[/x]")
    printed = "".join(capsys.readouterr())
    assert r"[bold]a\x1b[2J" in printed and printed.replace("\n", "").replace("─", "").isprintable()


def test_a_message_that_names_a_hostile_file_is_safe(jstc_command):
    called = jstc_command("report", f"no\n{HOSTILE[:-2]}")
    assert called.code == 2 and r"\x1b[2J" in called.err and "\x1b" not in called.err
