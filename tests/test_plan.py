"""Plans: what they hold, how they travel, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jstc.errors import ChannelError
from jstc.plan import Plan


@st.composite
def plans(draw):
    widths = draw(st.dictionaries(st.text(min_size=1), st.integers(1, 40), max_size=6))
    kept = {n: tuple(sorted(draw(st.sets(st.integers(0, w - 1), min_size=1)))) for n, w in widths.items()}
    return Plan(kept, widths)


PLAN = Plan({"conv1": (0, 2, 3), "layer1.0.conv1": (1,)}, {"conv1": 4, "layer1.0.conv1": 2})


@given(plans())
def test_a_plan_survives_json(plan):
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan and again.hash == plan.hash and again.overlap(plan) == 1


def test_a_plan_survives_a_file(tmp_path):
    PLAN.save(tmp_path / "new" / "plan.json")
    assert Plan.load(tmp_path / "new" / "plan.json") == PLAN
    assert json.loads((tmp_path / "new" / "plan.json").read_text()) == {
        "schema": 1,
        "groups": {
            "conv1": {"width": 4, "kept": [0, 2, 3]},
            "layer1.0.conv1": {"width": 2, "kept": [1]},
        },
    }


def test_the_hash_is_the_same_for_ever():
    # Files of earlier versions carry it.
    assert PLAN.hash == "52602ba53b76a7b9b5d3d61c1adeb0a4cfb6c2a05f0e33a33436d3857d1f3e11"
    assert Plan({}, {}).hash == "1207cf5bc14c619e17f4bb39309ee1e1878afdf37a34f52a0b0dda2c6d8b7e63"


@given(plans(), st.randoms(use_true_random=False))
def test_the_hash_does_not_depend_on_the_order_of_the_groups(plan, random):
    names = list(plan.kept)
    random.shuffle(names)
    again = Plan({n: plan.kept[n] for n in names}, dict(reversed(plan.widths.items())))
    assert again.hash == plan.hash


@pytest.mark.parametrize(
    "other",
    [
        Plan({"conv1": (0, 2), "layer1.0.conv1": (1,)}, PLAN.widths),
        Plan({"conv1": (0, 1, 3), "layer1.0.conv1": (1,)}, PLAN.widths),
        Plan(PLAN.kept, {"conv1": 5, "layer1.0.conv1": 2}),
        Plan({"conv1": (0, 2, 3), "layer1.0.conv2": (1,)}, {"conv1": 4, "layer1.0.conv2": 2}),
    ],
)
def test_other_plans_have_other_hashes(other):
    assert other.hash != PLAN.hash and other != PLAN


def test_full_plans_keep_everything():
    plan = Plan.full({"a": 3, "b": 1})
    assert plan.kept == {"a": (0, 1, 2), "b": (0,)} and plan.counts == {"a": 3, "b": 1}


def test_overlap_is_the_mean_jaccard_index():
    widths = {"a": 4, "b": 4}
    left = Plan({"a": (0, 1), "b": (0, 1, 2)}, widths)
    right = Plan({"a": (1, 2), "b": (0, 1, 2)}, widths)
    assert left.overlap(right) == right.overlap(left) == pytest.approx((1 / 3 + 1) / 2)
    assert left.overlap(Plan({"a": (2, 3), "b": (3,)}, widths)) == 0
    assert Plan({}, {}).overlap(Plan({}, {})) == 1


@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0), (-1, 2), (0, 4), (0.0, 1.0), (True,), ("0",), (None,)])
def test_kept_channels_are_sorted_distinct_whole_and_within_the_width(kept):
    with pytest.raises(ChannelError, match="plan: group 'a'"):
        Plan({"a": kept}, {"a": 4})


@pytest.mark.parametrize("width", [0, 2, -1, 4.0, True, None, "4"])
def test_widths_are_whole_numbers_above_the_kept_channels(width):
    with pytest.raises(ChannelError, match="plan: group 'a'"):
        Plan({"a": (0, 2)}, {"a": width})


@pytest.mark.parametrize("widths", [{}, {"a": 2, "b": 2}, {"b": 2}])
def test_every_group_has_both(widths):
    with pytest.raises(ChannelError, match="kept channels or a width, but not both"):
        Plan({"a": (0,)}, widths)


GOOD = {"width": 2, "kept": [1]}


@pytest.mark.parametrize(
    "document",
    [
        *(None, 1, "plan", [], {}),
        *({"schema": 2, "groups": {}}, {"schema": "1", "groups": {}}, {"schema": 1}),
        *({"schema": 1, "groups": groups} for groups in (None, [], [GOOD], "a", {"a": None}, {"a": []})),
        {"schema": 1, "groups": {"a": {"width": 2}}},
        {"schema": 1, "groups": {"a": {"kept": [1]}}},
        {"schema": 1, "groups": {"a": {"width": 2, "kept": None}}},
        {"schema": 1, "groups": {"a": {"width": 2, "kept": 1}}},
        {"schema": 1, "groups": {"a": {"width": 2, "kept": "01"}}},
        {"schema": 1, "groups": {"a": {"width": 2, "kept": {"0": 1}}}},
        {"schema": 1, "groups": {"a": GOOD, "b": {"width": 2, "kept": [2]}}},
    ],
)
def test_other_documents_are_no_plans(document):
    with pytest.raises(ChannelError, match="plan: "):
        Plan.from_dict(document)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b'{"schema": 1}'])
def test_files_that_are_no_plans(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ChannelError, match="plan: "):
        Plan.load(tmp_path / "plan.json")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ChannelError, match=r"cannot read .*nowhere\.json"):
        Plan.load(tmp_path / "nowhere.json")
    with pytest.raises(ChannelError, match="cannot read"):
        Plan.load(tmp_path)


def test_no_torch_is_needed():
    import subprocess
    import sys

    code = "import sys, jstc.plan; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
