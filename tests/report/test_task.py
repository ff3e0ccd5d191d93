"""The report of a `JointSearch`: its folder in figures, without accuracies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.cli import main
from jstc.errors import RunDirectoryError
from jstc.report.task import draw_task

WHOLE = {
    "class": "UNet",
    "budget": {"flops": "0.5"},
    "widths": {"a": 8, "b|c": 16},
    "flops": 2000,
    "params": 100,
}
RESULT = {
    "score": 0.4125,
    "flops": 990,
    "params": 60,
    "rounds": 3,
    "seconds": 75.0,
    "counts": {"a": 4, "b|c": 16},
    "candidates": {"judged": 3, "images": 20, "seconds": 4.0},
    "contributions": [
        {"part": "evenly narrow", "loss": 1.5, "accuracy": None, "params": 55},
        {"part": "policy", "loss": 1.25, "accuracy": None, "params": 60},
    ],
}


def line(**figures: Any) -> str:
    return json.dumps(figures) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "search.json").write_text(json.dumps({"schema": 1, **WHOLE}))
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    rounds = [(0.25, None), (None, 0.5), (0.5, 1.0)]
    text = "".join(line(round=n, phase="fine", score=s, overlap=o) for n, (s, o) in enumerate(rounds))
    (tmp_path / "history.jsonl").write_text(text)
    losses = [(0, 1.5, [4, 8]), (0, None, [2, 16]), (1, 1.25, [4, 16])]
    candidates = [
        line(candidate=n, generation=g, phase="fine", loss=loss, counts=counts, images=20, seconds=1.0)
        for n, (g, loss, counts) in enumerate(losses)
    ]
    (tmp_path / "candidates.jsonl").write_text("".join(candidates))
    return tmp_path


def test_the_score_stands_where_accuracies_would(folder: Path) -> None:
    data = report.read_task(folder)
    text = report.task_markdown(data)
    assert "# UNet at 49.5 % of its FLOPs" in text and "| score |  | 0.4125 |  |" in text
    assert "| FLOPs | 2.00 k | 990 | 2.02x fewer |" in text and "the best of the rounds was 0.5" in text
    assert "3 plans were judged in 4.0 s" in text and "the same 20 examples, every second batch" in text
    assert "| policy | 1.250 | -0.250 | 60 |" in text and r"| `b\|c` | 16 | 16 |" in text
    assert "accuracy" not in text and "split" not in text and "accuracy" not in report.task_html(data)
    assert "not finished" not in text


def test_pictures_of_what_there_is(folder: Path) -> None:
    files = [drawing.file for drawing in draw_task(report.read_task(folder))]
    assert files == ["report/candidates.svg", "report/depths.svg", "report/search.svg"]
    assert report.task_html(report.read_task(folder)).count("data:image/svg+xml") == 3
    (folder / "candidates.jsonl").unlink()
    assert [drawing.file for drawing in draw_task(report.read_task(folder))] == ["report/search.svg"]


def test_a_search_that_is_not_finished(folder: Path) -> None:
    (folder / "result.json").unlink()
    text = report.task_markdown(report.read_task(folder))
    assert "# UNet, searched" in text and "The search is not finished." in text and "| `a` | 8 | - |" in text


def test_the_command_takes_such_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def called(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["report", str(folder), *words])
        assert not ended.value.code
        return capsys.readouterr().out

    assert "0.4125" in called() and (folder / "report.html").is_file()
    assert json.loads(called("--json"))["result"]["score"] == 0.4125
    assert called("--markdown") == (folder / "report.md").read_text(encoding="utf-8")


def test_a_damaged_file_is_told(folder: Path) -> None:
    (folder / "search.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="no widths"):
        report.read_task(folder)
