"""Names as patterns: what is taken together, what is not, and that nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jstc.report.groups import MOST_ROWS, by_reason, group_names, width_rows
from jstc.summary import Costs, Network


def patterns(names, **options):
    return {alike.pattern: len(alike.members) for alike in group_names(names, **options)}


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


def test_the_first_and_the_last_of_a_sequence_are_no_repeated_blocks():
    assert patterns(["features.0.0", "features.18.0"]) == {"features.0.0": 1, "features.18.0": 1}
    assert patterns(["features.3.0", "features.4.0"]) == {"features.*.0": 2}
    assert patterns([f"features.{i}.0" for i in (2, 4, 7)]) == {"features.*.0": 3}


def test_only_equal_keys_meet():
    names = [f"b.{i}.c" for i in range(4)]
    found = group_names(names, [16, 16, 32, 32])
    assert [(alike.pattern, alike.members) for alike in found] == [("b.*.c", (0, 1)), ("b.*.c", (2, 3))]


def test_one_name_and_none():
    assert patterns(["layer4.0.conv1"]) == {"layer4.0.conv1": 1}
    assert group_names([]) == []


names = st.lists(st.from_regex(r"[ab][0-9]?(\.[ab0-9][0-9]?){0,3}", fullmatch=True), max_size=12)


@given(names, st.integers(0, 5))
def test_every_name_is_in_one_pattern_that_matches_it(given_names, enough):
    import fnmatch

    found = group_names(given_names, enough=enough)
    assert sorted(i for alike in found for i in alike.members) == list(range(len(given_names)))
    for alike in found:
        assert all(fnmatch.fnmatchcase(given_names[i], alike.pattern) for i in alike.members)


def test_reasons_that_differ_in_numbers_only_are_one():
    reasons = ["sizes [3, 768] and 1548", "network input", "sizes [3, 768] and 1044"]
    assert by_reason(reasons) == [[0, 2], [1]]


# --- rows -------------------------------------------------------------------------------------------------


def planned(groups):
    return Network.model_validate({"groups": groups})


def test_names_that_nothing_joins_are_cut_off_by_cost():
    letters = "abcdefghijklmnopqrstuvwxyz"
    entries = [
        {"name": f"{one}{two}", "width": 4, "kept": 2, "flops_share": 0.001 * place}
        for place, (one, two) in enumerate((one, two) for one in letters for two in "xy")
    ]
    found = width_rows(planned(entries), Costs())
    assert len(found.rows) == MOST_ROWS
    assert found.rows[-1].name == "others (29)"
    assert [row.name for row in found.rows[:-1]] == [entry["name"] for entry in entries[29:]]
    assert (found.kept, found.width, found.joined, found.after) == (104, 208, True, False)


def test_groups_without_a_plan_are_no_rows():
    assert width_rows(planned([{"name": "a", "width": 4, "kept": None, "flops_share": 0.1}]), Costs()) is None
    assert width_rows(planned([]), Costs()) is None
