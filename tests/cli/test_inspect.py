"""`jstc inspect` at the terminal: short for large networks, whole on demand, and what is refused."""

from __future__ import annotations

import json

import pytest

from jstc.cli import inspect_view

FILE = """
from torch import nn


def deep():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    for _ in range(42):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
"""


@pytest.fixture
def inspect(jstc_command, tmp_path):
    (tmp_path / "net.py").write_text(FILE)

    def inspect(factory, *words):
        return jstc_command("inspect", f"net.py:{factory}", "--image-size", 8, *words)

    return inspect


def test_groups_that_are_alike_share_a_line_in_large_networks(inspect):
    short = inspect("deep").out
    assert "0.* (43)" in short
    assert "0.9.bias" not in short
    for flag in ("--all", "-v"):
        every = inspect("deep", flag).out
        assert "0.9, 0.10, 0.12" in every
        assert every.count("network output") == 1


def test_all_flags_of_a_recipe_section(inspect):
    found = json.loads(inspect("deep", "--json", "--set", "channels.min_share=0.5", "--ignore", "0.0").out)
    assert found["ignore"] == ["0.0"]
    assert {group["least"] for group in found["groups"]} == {4}
    assert len(found["groups"]) == 42


def test_a_network_with_nothing_to_cut_is_told_so(inspect):
    called = inspect("flat")
    assert called.code == 0
    assert "Nothing can be cut in 'net.py:flat': all channels stay, for the reasons above.\n" in called.out
    assert "network input" in called.out
    assert "smallest reachable" not in called.out


def test_the_picture_is_written_beside_the_tables(inspect, tmp_path):
    called = inspect("deep", "--svg", tmp_path / "deep.svg")
    assert (tmp_path / "deep.svg").read_text().startswith("<svg ")
    assert "The picture is in" in called.err and "network input" in called.out
    json.loads(inspect("deep", "--json", "--svg", tmp_path / "deep.svg").out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--svg", "no/such/folder.svg"],
            "error: --svg no/such/folder.svg: expected a file to write, in a folder",
        ),
        (
            ["--set", "train.lr=1"],
            "error: --set train.lr=1: `jstc inspect` reads only keys such as channels.",
        ),
        (["--set", "channels.min_shar=1"], "did you mean channels.min_share?"),
        (["--ignore", "1.*"], "error: ignore: '1.*' matches no module with weights; names there are such as"),
        (["--set", "channels.groups.9.min_width=2"], "error: channels.groups: '9' matches no group"),
    ],
)
def test_what_is_wrong_is_said_with_exit_code_2(inspect, words, message):
    called = inspect("deep", *words)
    assert (called.code, called.out) == (2, "")
    assert message in called.err and called.err.count("\n") == 1


def entry(layer, channels, reason):
    return {"layer": layer, "kind": "Linear", "side": "in", "channels": channels, "reason": reason}


def document(**changes):
    return {
        "model": "m", "input": [3, 8, 8], "flops": 10, "params": 10, "groups": [], "frozen": [],
        "unknown_operations": {}, "flops_share_cuttable": 0.0, "params_share_cuttable": 0.0, **changes,
    }  # fmt: skip


def test_frozen_channels_with_one_reason_share_a_line(capsys):
    frozen = [entry(f"blocks.{i}.attn.qkv", 768, f"sizes [3, 768] and {i}") for i in range(12)]
    frozen += [entry(f"blocks.{i}.attn.proj", 768, "sizes [3, 768] and 0") for i in range(11)]
    inspect_view.show(document(frozen=[*frozen, entry("stem", 3, "network input")]))
    out = capsys.readouterr().out
    assert "blocks.*.attn.{qkv (12), proj (11)}   768 x 23   sizes [3, 768] and 0 (11 more like it" in out
    assert "stem                                  3          network input" in out


def test_every_reason_is_there_on_demand(capsys):
    frozen = [entry(f"blocks.{i}.attn.qkv", 768, f"sizes [3, 768] and {i}") for i in range(12)]
    inspect_view.show(document(frozen=frozen), every=True)
    out = capsys.readouterr().out
    assert all(f"blocks.{i}.attn.qkv" in out and f"sizes [3, 768] and {i}\n" in out for i in range(12))


def test_many_places_of_one_reason_end_in_a_count(capsys):
    frozen = [entry(name, size, "tied") for size, name in enumerate("abcdefgh", 1)]
    inspect_view.show(document(frozen=frozen))
    assert "a, b, c and 5 more   1, 2, 3 and 5 more   tied\n" in capsys.readouterr().out


def test_operations_without_a_rule_are_named(capsys):
    inspect_view.show(document(unknown_operations={"aten.odd": 3}))
    assert "operations without a rule" in capsys.readouterr().out


def test_on_a_narrow_terminal_names_stay_whole(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    name = "encoder.layers.encoder_layer_11.mlp.0"
    group = {
        "name": name,
        "width": 12,
        "unit": 64,
        "flops_share": 0.5,
        "params": 10**6,
        "layers": [name, f"{name}.x"],
    }
    sizes = {f"smallest_{metric}{kind}": 1 for metric in ("flops", "params") for kind in ("", "_share")}
    inspect_view.show(document(groups=[group], **sizes))
    out = capsys.readouterr().out
    assert name in out and "12 x 64" in out


def test_the_shape_of_an_input(jstc_command, tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    found = jstc_command("inspect", "net.py:deep", "--shape", "3, 8,8", "--part", "0", "--json")
    assert (json.loads(found.out)["input"], json.loads(found.out)["part"]) == ([3, 8, 8], "0")
    assert (
        "part that alone is cut"
        in jstc_command("inspect", "net.py:deep", "--shape", "3,8,8", "--part", "0").out
    )
    for text in ("3,a", "", "3,0", "3x8"):
        called = jstc_command("inspect", "net.py:deep", "--shape", text)
        assert called.code == 2
        assert "expected whole numbers above zero, such as 40,98" in called.err
