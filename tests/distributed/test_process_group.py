"""Processes find those of the same start, whatever others have left in the store."""

from __future__ import annotations

import threading

import pytest

from jstc.errors import StageError
from jstc.train.process_group import rendezvous


class Store:
    """torchrun's, in memory."""

    def __init__(self):
        self.content = {}

    def set(self, key, value):
        self.content[key] = value.encode() if isinstance(value, str) else value

    def get(self, key):
        return self.content[key]

    def check(self, keys):
        return all(key in self.content for key in keys)


def all_meet(store, world):
    found = {}

    def one(rank):
        found[rank] = rendezvous(store, rank=rank, world=world, seconds=20)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_get_the_same_session():
    found = all_meet(Store(), 4)
    assert sorted(found) == [0, 1, 2, 3]
    assert len(set(found.values())) == 1


def test_a_start_before_leaves_nothing_behind():
    store = Store()
    first = all_meet(store, 3)[0]
    second = all_meet(store, 3)
    assert set(second.values()) == {second[0]} != {first}


def test_fewer_processes_than_before():
    store = Store()
    all_meet(store, 4)
    assert len(set(all_meet(store, 2).values())) == 1


def test_one_that_does_not_come_is_an_error():
    with pytest.raises(StageError, match="not all processes of the run have come within 0 seconds"):
        rendezvous(Store(), rank=0, world=2, seconds=0.1)
    with pytest.raises(StageError, match="process 0"):
        rendezvous(Store(), rank=1, world=2, seconds=0.1)
