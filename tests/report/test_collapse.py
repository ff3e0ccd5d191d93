"""Names as patterns: what is taken together, what is not, and that nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jstc.report.tables import by_reason, collapse


def patterns(names, **options):
    return {alike.pattern: len(alike.members) for alike in collapse(names, **options)}


def test_blocks_are_taken_together_and_their_parts_are_not():
    names = [f"blocks.{i}.{part}" for i in range(12) for part in ("attn.qkv", "mlp.fc1", "mlp.fc2")]
    assert patterns(names) == {"blocks.*.attn.qkv": 12, "blocks.*.mlp.fc1": 12, "blocks.*.mlp.fc2": 12}


def test_a_number_within_a_word_counts_too():
    names = [f"layers.encoder_layer_{i}.ln_1" for i in range(3)]
    assert patterns([*names, "ln"]) == {"layers.encoder_layer_*.ln_1": 3, "ln": 1}


def test_blocks_go_before_stages_and_stages_only_if_there_are_too_many():
    names = [f"stage{s}.layer{i}.conv" for s in (1, 2, 3) for i in range(4)]
    assert patterns(names, enough=3) == {
        "stage1.layer*.conv": 4,
        "stage2.layer*.conv": 4,
        "stage3.layer*.conv": 4,
    }
    assert patterns(names, enough=2) == {"stage*.layer*.conv": 12}
    assert len(patterns(names, enough=12)) == 12


def test_places_in_a_plain_sequence_are_parts_unless_they_are_many():
    assert patterns(["mlp.0", "mlp.3"]) == {"mlp.0": 1, "mlp.3": 1}
    assert patterns([f"features.{i}" for i in (0, 3, 6, 8)]) == {"features.*": 4}


def test_only_equal_keys_meet():
    names = [f"b.{i}.c" for i in range(4)]
    found = collapse(names, [16, 16, 32, 32])
    assert [(alike.pattern, alike.members) for alike in found] == [("b.*.c", (0, 1)), ("b.*.c", (2, 3))]


def test_one_name_and_none():
    assert patterns(["layer4.0.conv1"]) == {"layer4.0.conv1": 1}
    assert collapse([]) == []


names = st.lists(st.from_regex(r"[ab][0-9]?(\.[ab0-9][0-9]?){0,3}", fullmatch=True), max_size=12)


@given(names, st.integers(0, 5))
def test_every_name_is_in_one_pattern_that_matches_it(given_names, enough):
    import fnmatch

    found = collapse(given_names, enough=enough)
    assert sorted(i for alike in found for i in alike.members) == list(range(len(given_names)))
    for alike in found:
        assert all(fnmatch.fnmatchcase(given_names[i], alike.pattern) for i in alike.members)


def test_reasons_that_differ_in_numbers_only_are_one():
    reasons = ["sizes [3, 768] and 1548", "network input", "sizes [3, 768] and 1044"]
    found = by_reason([{"reason": reason} for reason in reasons])
    assert [[entry["reason"] for entry in same] for same in found] == [
        [reasons[0], reasons[2]],
        ["network input"],
    ]
