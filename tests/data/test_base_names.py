from __future__ import annotations

import pickle

from jstc.data.base import Names


def test_names_come_back_whatever_their_length() -> None:
    names = [b"a", b"", "ä.jpg".encode(), b"x" * 300, b""]
    packed = Names.pack(names)
    assert [packed[n] for n in range(len(packed))] == names
    copied = pickle.loads(pickle.dumps(packed))
    assert [copied[n] for n in range(len(copied))] == names
    assert len(Names.pack([])) == 0


def test_packed_names_can_be_joined() -> None:
    joined = Names.joined([Names.pack([b"a", b"bc"]), Names.pack([]), Names.pack([b"d"])])
    assert [joined[n] for n in range(len(joined))] == [b"a", b"bc", b"d"]
    assert len(Names.joined([])) == 0
