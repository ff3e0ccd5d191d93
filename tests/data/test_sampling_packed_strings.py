from __future__ import annotations

import pickle

from jstc.data.sampling import PackedStrings


def test_names_come_back_whatever_their_length() -> None:
    names = [b"a", b"", "ä.jpg".encode(), b"x" * 300, b""]
    packed = PackedStrings.pack(names)
    assert [packed[n] for n in range(len(packed))] == names
    copied = pickle.loads(pickle.dumps(packed))
    assert [copied[n] for n in range(len(copied))] == names
    assert len(PackedStrings.pack([])) == 0


def test_packed_names_can_be_joined() -> None:
    joined = PackedStrings.joined(
        [PackedStrings.pack([b"a", b"bc"]), PackedStrings.pack([]), PackedStrings.pack([b"d"])]
    )
    assert [joined[n] for n in range(len(joined))] == [b"a", b"bc", b"d"]
    assert len(PackedStrings.joined([])) == 0
