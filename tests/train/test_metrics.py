from __future__ import annotations

import os
from pathlib import Path

import pytest

from jstc.errors import DiskFullError
from jstc.train.metrics import History


def written(path: Path, count: int) -> History:
    history = History(path / "h" / "history.jsonl")
    for index in range(count):
        history.append({"index": index, "loss": index / 2})
    return history


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    assert History(tmp_path / "none.jsonl").read() == []
    assert written(tmp_path, 3).read() == [{"index": i, "loss": i / 2} for i in range(3)]


@pytest.mark.parametrize(
    "tail", [b'{"index": 2, "lo', b'{"index": 2}', b"\x00\x00\n", b"[2]\n", b'{"index": 9}\n']
)
def test_a_broken_tail_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = written(tmp_path, 2).path
    path.write_bytes(path.read_bytes() + tail)
    fresh = History(path)
    assert [record["index"] for record in fresh.read()] == [0, 1]
    fresh.append({"index": 2})
    assert [record["index"] for record in History(path).read()] == [0, 1, 2]


def test_a_line_of_nothing_but_brackets_is_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("[" * 100_000 + "\n")
    assert History(tmp_path / "h.jsonl").read() == []


def test_truncate_forgets_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    path = written(tmp_path, 3).path
    again = History(path)
    again.truncate(1)
    again.append({"index": 1, "loss": 9.0})
    assert again.read() == [{"index": 0, "loss": 0.0}, {"index": 1, "loss": 9.0}]


def test_a_gap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is number 5, not 2"):
        written(tmp_path, 2).append({"index": 5})


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        written(tmp_path, 0).append({"index": 0, "loss": float("nan")})


def test_a_full_disk_leaves_the_lines_before_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "h.jsonl")
    history.append({"index": 0})

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskFullError, match=r"h\.jsonl"):
            history.append({"index": 1})
    assert (tmp_path / "h.jsonl").read_text() == '{"index": 0}\n'
