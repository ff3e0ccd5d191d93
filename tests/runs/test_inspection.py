"""What `jstc inspect` finds: groups, layers, frozen channels, and how far a network can be cut."""

from __future__ import annotations

import pytest

from jstc.errors import InputError, ModelError, RecipeError
from jstc.recipe.schema import ChannelSettings, GroupSettings
from jstc.runs.inspection import Images, inspect

FILE = """
from torch import nn
import torch


class Net(nn.Module):
    def __init__(self, colours=3):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.up = nn.ConvTranspose2d(colours, 8, 2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head((self.norm(self.up(x)) + self.token).mean((2, 3)))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 4, stride=4)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def grey():
    return Net(1)


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))]
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.blocks[0](x).mean((2, 3)))


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))


class Spotter(nn.Module):
    def __init__(self, num_classes=4, in_channels=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(in_channels, 16, 3), nn.ReLU(), nn.Conv1d(16, 8, 3))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean(2))
"""


@pytest.fixture
def found(tmp_path):
    (tmp_path / "net.py").write_text(FILE)

    def found(factory="Net", settings=None, part=None, **images):
        wanted = Images(**{**({} if "shape" in images else {"image_size": 8}), **images})
        return inspect(
            f"{tmp_path / 'net.py'}:{factory}",
            images=wanted,
            settings=settings or ChannelSettings(),
            part=part,
        )

    return found


def test_layers_are_in_order_with_what_they_make_and_read(found):
    layers = {layer["name"]: layer for layer in found()["layers"]}
    assert list(layers) == ["up", "norm", "token", "head"]
    assert [(layer["kind"], layer["width"]) for layer in layers.values()] == [
        ("ConvTranspose2d", 8), ("BatchNorm2d", 8), ("Parameter", 1), ("Linear", 5),
    ]  # fmt: skip
    assert (layers["up"]["makes"], layers["up"]["reads"]) == (["up"], [])
    assert (layers["head"]["makes"], layers["head"]["reads"]) == ([], ["up"])


def test_frozen_channels_say_on_which_side(found):
    frozen = {(entry["layer"], entry["side"]): entry for entry in found()["frozen"]}
    assert frozen["up", "in"]["reason"] == "network input"
    assert frozen["head", "out"] == {
        "layer": "head", "kind": "Linear", "side": "out", "channels": 5, "reason": "network output",
    }  # fmt: skip


def test_shares_of_flops_and_of_parameters(found):
    document = found()
    assert document["flops_share_cuttable"] == 1.0
    whole = document["params"]
    assert whole == 3 * 8 * 4 + 16 + 8 + 40 + 5
    assert document["params_share_cuttable"] == (whole - 5) / whole  # all but the last bias


def test_settings_decide_how_far_it_goes(found):
    one = found(settings=ChannelSettings(round_to=1, min_share=0.1))
    half = found(
        settings=ChannelSettings(round_to=1, groups={"norm": GroupSettings(min_share=0.5, round_to=2)})
    )
    assert (one["groups"][0]["least"], one["groups"][0]["step"]) == (1, 1)
    assert (half["groups"][0]["least"], half["groups"][0]["step"]) == (4, 2)
    assert half["smallest_flops"] > one["smallest_flops"]
    assert half["smallest_params"] == 3 * 4 * 4 + 8 + 4 + 20 + 5


def test_what_is_ignored_is_frozen_with_the_pattern(found):
    document = found(settings=ChannelSettings(ignore=("up",)))
    assert (document["groups"], document["ignore"]) == ([], ["up"])
    assert "ignored by the pattern 'up'" in {entry["reason"] for entry in document["frozen"]}
    assert document["smallest_flops_share"] == 1.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (ChannelSettings(ignore=("down",)), InputError, "ignore: 'down' matches no module with weights"),
        (
            ChannelSettings(groups={"down": GroupSettings()}),
            RecipeError,
            "channels.groups: 'down' matches no",
        ),
    ],
)
def test_patterns_that_match_nothing_are_refused(found, settings, error, message):
    with pytest.raises(error, match=message):
        found(settings=settings)


def test_the_classes_are_those_of_the_users_own_network(found):
    assert found()["num_classes"] == 5


def test_images_of_other_depth(found):
    with pytest.raises(ModelError, match="1 channels, but got 3"):
        found("grey")
    assert found("grey", in_channels=1)["input"] == [1, 8, 8]


def test_nothing_to_cut_is_an_answer_too(found):
    document = found("flat")
    assert document["groups"] == []
    assert {entry["reason"] for entry in document["frozen"]} == {"network input", "network output"}


@pytest.mark.parametrize("option", [{"num_classes": 3}, {"in_channels": 1}])
def test_what_the_dataset_says_is_not_said_twice(found, option):
    with pytest.raises(InputError, match="give either --"):
        found(dataset="digits", image_size=None, **option)


def test_heads_are_units_of_several_channels(found):
    document = found("Attends")
    (heads,) = [group for group in document["groups"] if group["name"] == "attention"]
    assert (heads["width"], heads["unit"]) == (4, 8)
    attention = next(layer for layer in document["layers"] if layer["name"] == "attention")
    assert (attention["width"], attention["made"]) == (96, [96])


def test_layers_in_a_list_are_named(found):
    with pytest.raises(ModelError, match=r"not registered in the network: blocks\[0\] \(Sequential\)"):
        found("InAList")
    with pytest.raises(ModelError, match=r"the network's forward failed at"):
        found("grey")


def test_inputs_of_another_rank(found):
    document = found("Spotter", shape=(40, 98), num_classes=4)
    assert (document["input"], document["num_classes"], document["part"]) == ([40, 98], 4, None)
    assert {group["name"]: group["width"] for group in document["groups"]} == {"body.0": 16, "body.2": 8}
    assert document["flops"] == 3 * 40 * 16 * 96 + 3 * 16 * 8 * 94 + 8 * 4


def test_grey_images(found):
    document = found("grey", in_channels=1)
    assert document["input"] == [1, 8, 8]
    assert [group["name"] for group in document["groups"]] == ["up"]


def test_a_part_alone(found):
    document = found("Spotter", part="body", shape=(3, 98))
    assert (document["part"], document["input"]) == ("body", [3, 98])
    assert {group["name"]: group["width"] for group in document["groups"]} == {"body.0": 16}
    with pytest.raises(InputError, match="part: the network has no module 'boddy'; there are such as body"):
        found("Spotter", part="boddy", shape=(3, 98))


def test_a_part_of_a_network_from_the_catalogue():
    wanted = Images(shape=(64, 8, 8))
    document = inspect("resnet18", images=wanted, settings=ChannelSettings(), part="layer2")
    assert {group["name"].split(".")[0] for group in document["groups"]} == {"layer2"}
    with pytest.raises(InputError, match="--image-size"):
        inspect("resnet18", images=wanted, settings=ChannelSettings())


@pytest.mark.parametrize("option", [{"dataset": "digits"}, {"in_channels": 1}, {"image_size": 8}])
def test_a_shape_is_given_alone(found, option):
    with pytest.raises(InputError, match="give either --shape or --"):
        found("Spotter", shape=(40, 98), **option)
