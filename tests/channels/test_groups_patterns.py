"""Patterns of layer names: what they stand for, and what is said of one that stands for nothing."""

from __future__ import annotations

import pytest

from jstc.channels import groups
from jstc.errors import InputError

PARAMETERS = ("class_token", "stem.weight", "layer4.0.conv1.weight", "layer4.1.conv1.weight", "fc.weight")


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("layer4.0.conv1", "layer4", True),
        ("layer4.0.conv1", "layer4.*", True),
        ("layer4.0.conv1", "layer?.0", True),
        ("layer4.0.conv1", "*.conv1", True),
        ("layer4.0.conv1", "layer4.0.conv1", True),
        ("layer4.0.conv1", "conv1", False),
        ("layer4.0.conv1", "layer", False),
        ("layer4.0.conv1", "Layer4", False),
        ("layer40.conv1", "layer4", False),
    ],
)
def test_a_pattern_stands_for_modules_and_all_inside_them(name, pattern, expected):
    assert groups.matches(name, pattern) is expected


def test_a_parameter_of_the_network_itself_goes_by_its_own_name():
    assert [groups.layer_of(name) for name in PARAMETERS[:2]] == ["class_token", "stem"]
    groups.require_matches(["class_token", "layer4", "f*"], PARAMETERS)


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("layer3", "'layer4'"),
        ("layer3.*", "'layer4'"),
        ("FC", "'fc'"),
        ("layer4.2.conv1", "'layer4.1.conv1', 'layer4.0.conv1'"),
        ("xyz", "'class_token', 'stem', 'layer4.0.conv1'"),
    ],
)
def test_near_names_are_modules_too(pattern, near):
    with pytest.raises(InputError) as caught:
        groups.require_matches(["fc", pattern], PARAMETERS)
    text = f"ignore: '{pattern}' matches no module with weights; names there are such as {near}"
    assert str(caught.value).startswith(text)
