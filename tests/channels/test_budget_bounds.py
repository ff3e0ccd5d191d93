"""Bounds of single groups: which entry counts for which group, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from jstc.channels.budget import WidthBounds, step_for
from jstc.channels.groups import Group
from jstc.errors import RecipeError
from jstc.recipe import loading
from jstc.recipe.schema import ChannelSettings, GroupSettings

GROUPS = (
    Group("conv1", 16, 0, ("conv1", "bn1", "layer1.0.conv2")),
    Group("layer2.0.conv1", 32, 16, ("layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2")),
    Group("layer2.1.conv1", 32, 48, ("layer2.1.conv1", "layer2.1.bn1", "layer2.1.conv2")),
    Group("layer3.0.conv2#2", 64, 80, ("layer3.0.conv2", "layer3.1.conv2")),
)


def bounds(**groups: dict) -> WidthBounds:
    settings = ChannelSettings(
        round_to=1,
        min_share=0.1,
        groups={name.replace("__", "."): GroupSettings(**own) for name, own in groups.items()},
    )
    return WidthBounds.from_settings(GROUPS, settings)


def test_without_entries_all_groups_are_alike():
    assert bounds().least.tolist() == [2, 4, 4, 7]
    assert bounds().step.tolist() == [1, 1, 1, 1]


def test_an_entry_sets_what_it_names_and_leaves_the_rest():
    found = bounds(layer2={"min_share": 0.5}, conv1={"round_to": 8})
    assert found.least.tolist() == [8, 16, 16, 7]
    assert found.step.tolist() == [8, 1, 1, 1]


def test_a_pattern_matches_by_the_name_of_the_group_or_of_any_of_its_layers():
    assert bounds(layer1={"min_width": 9}).least.tolist() == [9, 4, 4, 7]
    assert bounds(**{"layer3.0.conv2#2": {"min_width": 9}}).least.tolist() == [2, 4, 4, 9]
    assert bounds(**{"*.bn1": {"min_width": 9}}).least.tolist() == [2, 9, 9, 7]


def test_of_entries_for_one_group_the_later_wins_key_by_key():
    found = bounds(layer2={"min_width": 9, "round_to": 2}, layer2__0={"min_width": 5})
    assert found.least.tolist() == [2, 6, 10, 7]
    assert found.step.tolist() == [1, 2, 2, 1]
    other = bounds(layer2__0={"min_width": 5}, layer2={"min_width": 9, "round_to": 2})
    assert other.least.tolist() == [2, 10, 10, 7]


def test_no_group_is_asked_for_more_than_it_has():
    assert bounds(conv1={"min_width": 1000, "round_to": 1000}).least.tolist() == [16, 4, 4, 7]


def test_the_settings_for_all_are_those_of_a_recipe():
    settings = loading.from_flags(
        {"model": "m", "dataset": "d", "flops": "0.5"},
        ["channels.min_width=3", "channels.round_to=4", "channels.groups.layer2.*.round_to=auto"],
    ).channels
    found = WidthBounds.from_settings(GROUPS, settings)
    assert found.step.tolist() == [4, 4, 4, 4]
    assert found.least.tolist() == [4, 4, 4, 8]
    wide = (Group("layer2.5", 64, 0, ("layer2.5",)),)
    assert WidthBounds.from_settings(wide, settings).step.tolist() == [8]


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("layer4.0.conv1", "'layer2.0.conv1'"),
        ("conv", "'conv1'"),
        ("LAYER2.*", "'layer2';"),
        ("?", "'conv1'"),
    ],
)
def test_a_pattern_without_a_group_is_refused_with_near_names(pattern, near):
    with pytest.raises(RecipeError) as caught:
        bounds(conv1={"min_width": 2}, **{pattern: {"min_width": 2}})
    text = f"channels.groups: '{pattern}' matches no group that can be cut, nor a layer of one; "
    assert str(caught.value).startswith(f"{text}names there are such as {near}")
    assert str(caught.value).endswith("'jstc inspect' lists the groups")


@pytest.mark.parametrize(
    ("width", "round_to", "step"),
    [
        (7, "auto", 1),
        (16, "auto", 2),
        (32, "auto", 4),
        (64, "auto", 8),
        (999, "auto", 8),
        (6, 8, 6),
        (9, 3, 3),
    ],
)
def test_steps(width, round_to, step):
    assert step_for(width, round_to) == step


@pytest.mark.parametrize(("parts", "steps"), [(2, [8, 4, 8, 4]), (4, [4, 2, 8, 2]), (8, [2, 1, 4, 1])])
def test_fewer_parts_are_wider_steps_of_narrow_groups(parts, steps):
    assert [step_for(width, "auto", parts=parts) for width in (16, 8, 32, 12)] == steps
    assert step_for(64, "auto", parts=parts) == 8 and step_for(12, 5, parts=parts) == 5


def test_the_finest_steps_may_have_a_least():
    widths = (64, 32, 16, 8, 7, 2, 1)
    assert [step_for(width, "auto", least=4) for width in widths] == [8, 4, 4, 4, 2, 1, 1]
    assert step_for(16, 1, least=4) == 1


def test_no_groups_no_bounds():
    assert np.array_equal(WidthBounds.of(()).least, np.zeros(0, np.int64))
