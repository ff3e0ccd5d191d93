"""Names with what a terminal obeys, in everything that is written for people."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jstc import gate, report
from jstc.core.safe_text import UNSAFE
from jstc.export import card
from tests.export.test_card import facts
from tests.gate.conftest import SUMMARY
from tests.report.conftest import documents, write_histories, write_run

OBEYED = "\x1b[31m\x9b2J\x07\r\u202e\u2066\u200f"
HOSTILE = f"{OBEYED}![x](http://x)[y](javascript:z)\n::error::pwn\n# head\n```\n<img src=x onerror=alert(1)>"


def obeyed(text: str) -> list[str]:
    """What of a text of several lines a terminal, a runner of commands, or a viewer would obey."""
    found = re.findall(UNSAFE, text.replace("\n", "").replace("\t", ""))
    return found + [line for line in text.splitlines() if line.startswith(("::", "# head"))]


def without_code(text: str) -> str:
    return re.sub("```.*?```", "", text, flags=re.DOTALL)


def test_a_model_card_and_what_lies_beside_it() -> None:
    spoilt = {"labels": [HOSTILE, "b"], "model": f"m{HOSTILE}", "dataset": f"d{HOSTILE}"}
    told = facts(spoilt, command=f"jstc{HOSTILE}", made=[HOSTILE], licence=HOSTILE, budget=OBEYED)
    text = card.model_card(told)
    assert obeyed(text) == [] and "<img" not in without_code(text.split("---\n")[2])
    assert obeyed(card.labels_text([HOSTILE])) == [] and card.labels_text([HOSTILE]).count("\n") == 1
    assert obeyed(card.run_script(told)) == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose groups, layers, reasons, versions and command have such names."""
    text = json.dumps(documents())
    for word in ("stem", "head", "fc|out", "2.15.0", "jstc run recipes/digits.yaml --out runs/r"):
        assert json.dumps(word) in text
        text = text.replace(json.dumps(word), json.dumps(word + HOSTILE))
    return write_histories(write_run(tmp_path / "r", json.loads(text)))


def test_reports(run: Path) -> None:
    report.write(run)
    for name in ("report.md", "report.html"):
        text = (run / name).read_text(encoding="utf-8")
        assert obeyed(text if name.endswith("md") else " ".join(text.split())) == [], name
        assert "<img src=x" not in (without_code(re.sub("`[^`\n]+`", "", text))), name
        assert "\\x1b[31m" in text, name
        assert name.endswith("html") or "](" not in re.sub(r"`[^`]*`|!\[[^]]*\]\(report/", "", text)
    for picture in run.glob("report/*.svg"):
        text = picture.read_text(encoding="utf-8")
        assert obeyed(" ".join(text.split())) == []
        ElementTree.fromstring(text)


def test_the_command_of_a_run_stays_between_its_fences(run: Path) -> None:
    report.write(run)
    text = (run / "report.md").read_text(encoding="utf-8")
    assert text.count("```") == 2


def test_a_comparison(tmp_path: Path) -> None:
    new = copy.deepcopy(SUMMARY)
    turned = "\u202e\u2066\x9b![x](http://x)<img>"  # a summary with line ends in names is refused
    new["onnx"][1] |= {"accuracy": 0.1, "precision": f"int8{turned}"}
    new["onnx"][0] |= {"accuracy": 0.1, "file": f"export/x{turned}"}
    sides = (gate.parse_side(SUMMARY, name="a"), gate.parse_side(new, name=f"b`{HOSTILE}"))
    found = gate.compare(*sides, settings=gate.Settings())
    assert found.failures
    text = gate.markdown(found)
    assert obeyed(text) == [] and text.count("`") == 4
    plain = re.sub("`.*?`", "", text)
    assert "<img" not in plain and "](" not in plain
    document = gate.junit(found).decode()
    assert obeyed("".join(ElementTree.fromstring(document).itertext())) == []
    for line in (*gate.workflow_commands(found), *map(gate.line, found.gates), *gate.remarks(found)):
        assert "\n" not in line and obeyed(line.removeprefix("::")) == []
