"""The table is measured once, kept, merged and trusted only when whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jstc.core import files
from jstc.core.progress import Silent
from jstc.latency import Setting, Table
from jstc.latency.kernels import Kernel
from jstc.latency.table import doubtful
from tests.helpers.fake_timer import FakeTimer

GEMM, MOVE = Kernel("gemm", (1,)), Kernel("move")
POINTS = [(8, 16), (8, 32)]


def test_what_is_known_is_not_measured_again(setting, tmp_path):
    first, second, third = (FakeTimer() for _ in range(3))
    path = tmp_path / "table.json"
    Table(setting, timer=first, path=path).require({GEMM: POINTS})
    again = Table(setting, timer=second, path=path)
    again.require({GEMM: POINTS})
    assert second.asked == []
    assert again.times[GEMM] == pytest.approx({point: first.time(GEMM, point) for point in POINTS})
    Table(setting, timer=third, path=path).require({GEMM: [*POINTS, (8, 48)]})
    assert third.asked == [(GEMM.key, (8, 48))]


def test_doubtful_times_of_a_process_that_ends_are_not_kept(setting, tmp_path):
    class Disturbed(FakeTimer):
        def __call__(self, kernel, points):
            if self.asked:
                raise KeyboardInterrupt
            return [100.0 if n == 0 else 1.0 for n, _ in enumerate(super().__call__(kernel, points))]

    path = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        Table(setting, timer=Disturbed(), path=path).require({GEMM: POINTS})
    assert Table(setting, timer=FakeTimer(), path=path).times == {}


@pytest.mark.parametrize("change", [{"provider": "cuda"}, {"batch": 8}, {"threads": 1},
                                    {"processor": "another"}, {"onnxruntime": "1.1"}], ids=str)  # fmt: skip
def test_every_setting_has_a_table_of_its_own(setting, change, monkeypatch, tmp_path):
    monkeypatch.setenv("JSTC_CACHE", str(tmp_path))
    other = dataclasses.replace(setting, **change)
    assert Table(setting).path != Table(other).path
    assert Table(setting).path.parent == tmp_path / "latency"


def test_a_table_of_another_setting_is_not_taken(setting, tmp_path):
    path = tmp_path / "table.json"
    Table(setting, timer=FakeTimer(), path=path).require({GEMM: POINTS})
    assert Table(dataclasses.replace(setting, batch=2), path=path).times == {}


def damaged(text: str) -> list[str]:
    document = json.loads(text)
    key = next(iter(document["times"]))
    return [
        "",
        text[: len(text) // 2],
        "[]",
        json.dumps(document | {"format": 99}),
        json.dumps(document | {"times": {key: {"8,16": "soon"}}}),
        json.dumps(document | {"times": {key: {"8,16": -1.0}}}),
        json.dumps(document | {"times": [1]}),
    ]


def test_a_damaged_table_is_measured_anew(setting, tmp_path):
    path = tmp_path / "table.json"
    Table(setting, timer=FakeTimer(), path=path).require({GEMM: POINTS})
    whole = path.read_text()
    for text in damaged(whole):
        path.write_text(text)
        timer = FakeTimer()
        Table(setting, timer=timer, path=path).require({GEMM: POINTS})
        assert {point for _, point in timer.asked} == set(POINTS)
        assert path.read_text() == whole


def test_two_writers_lose_nothing(setting, tmp_path):
    path = tmp_path / "table.json"
    one, other = (Table(setting, timer=FakeTimer(), path=path) for _ in range(2))
    one.require({GEMM: POINTS})
    other.require({MOVE: [(64,)]})  # it has read the file before the first one wrote
    assert set(Table(setting, path=path).times) == {GEMM, MOVE}


def test_a_folder_that_cannot_be_written_is_no_failure(setting, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    said = []
    told = Silent()
    monkeypatch.setattr(told, "message", said.append)
    table = Table(setting, timer=FakeTimer(), path=tmp_path / "file" / "table.json")
    table.require({GEMM: POINTS}, told)
    assert table.times[GEMM]
    assert "cannot be kept" in said[0]


def test_a_disturbed_time_is_measured_again_and_the_least_counts(setting, tmp_path):
    timer: Any = FakeTimer()
    calm = timer.time
    timer.time = lambda kernel, point: calm(kernel, point) * (6 if len(timer.asked) <= 2 else 1)
    points = [(8, n) for n in (16, 32, 48, 64)]
    Table(setting, timer=FakeTimer(), path=tmp_path / "t.json").require({GEMM: points[2:]})
    table = Table(setting, timer=timer, path=tmp_path / "t.json")
    table.require({GEMM: points[:2]})  # six times as long as they are, next to two that are right
    assert table.times[GEMM] == pytest.approx({point: calm(GEMM, point) for point in points})


def test_doubtful_times():
    times = {(8, 8): 1.0, (8, 16): 2.0, (8, 24): 5.0, (8, 32): 4.0}
    assert doubtful(times, list(times)) == [(8, 24)]


@pytest.mark.parametrize(("block", "expected"), [(8, 8), (16, 16), (32, 32)])
def test_the_block_is_what_wastes_nothing(setting, tmp_path, block, expected):
    assert Table(setting, timer=FakeTimer(block), path=tmp_path / "t.json").block == expected


def test_where_the_cache_is(monkeypatch):
    monkeypatch.delenv("JSTC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert files.cache_folder() == Path("/x/jstc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache" / "jstc"
    monkeypatch.setenv("JSTC_CACHE", "/own")
    assert files.cache_folder() == Path("/own")


def test_a_setting_names_this_machine():
    found = Setting.here("cpu", batch=4, threads=2)
    assert (found.provider, found.batch, found.threads) == ("cpu", 4, 2)
    assert "cores" in found.processor
