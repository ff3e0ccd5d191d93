from __future__ import annotations

import json

import pytest

from jstc.jst.state import Archive
from jstc.plan import Plan


def plan(*kept: int) -> Plan:
    return Plan({"b": kept, "a": (0,)}, {"b": 9, "a": 1})


def ranking(archive: Archive) -> list[tuple[int, float, int]]:
    return [(entry.plan.kept["b"][0], entry.accuracy, entry.round) for entry in archive.entries]


def test_the_best_are_kept_in_order() -> None:
    archive = Archive(2)
    for round_, accuracy in enumerate([0.3, 0.6, 0.5, 0.1]):
        archive.add(plan(round_), accuracy, round_)
    assert ranking(archive) == [(1, 0.6, 1), (2, 0.5, 2)]


def test_of_equal_scores_the_newer_plan_is_kept() -> None:
    archive = Archive(1)
    archive.add(plan(0), 0.5, 0)
    archive.add(plan(1), 0.5, 1)
    assert ranking(archive) == [(1, 0.5, 1)]


@pytest.mark.parametrize("newest", [0.2, 0.9])
def test_a_plan_is_held_once_at_its_newest_score(newest: float) -> None:
    archive = Archive(3)
    archive.add(plan(0), 0.5, 0)
    archive.add(plan(1), 0.4, 1)
    archive.add(plan(0), newest, 2)
    assert sorted(ranking(archive)) == [(0, newest, 2), (1, 0.4, 1)]
    assert archive.entries[0].accuracy == max(newest, 0.4)


def test_it_is_restored_from_json() -> None:
    archive, other = Archive(2), Archive(2)
    archive.add(plan(0, 4), 1 / 3, 0)
    archive.add(plan(1, 5), 0.7, 1)
    other.restore(json.loads(json.dumps(archive.to_list(), sort_keys=True)), ["b", "a"])
    assert other.entries == archive.entries
    assert list(other.entries[0].plan.kept) == ["b", "a"]
