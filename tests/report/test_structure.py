"""The picture of the channel structure: sound SVG that fetches nothing and shows what the document says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from jstc.report.structure import Structure, draw, lines, rows

SVG = "{http://www.w3.org/2000/svg}"


def group(name, width, share, layers):
    return {
        "name": name, "width": width, "unit": 1, "least": 1, "step": 1, "flops_share": share, "params": 1000,
        "layers": layers, "not_like_masking": None,
    }  # fmt: skip


def layer(name, width, makes=(), reads=(), rank=4):
    return {
        "name": name,
        "kind": "Conv2d",
        "rank": rank,
        "width": width,
        "makes": [*makes],
        "made": [8 if name == "b.1" else width for _ in makes],
        "reads": [*reads],
    }


def document(**changes):
    return {
        "model": "net<&>", "input": [3, 32, 32], "num_classes": 10, "flops": 40_000_000, "params": 270_000,
        "groups": [
            group("stem", 16, 0.9, ["stem", "bn", "b.0"]),
            group("b.0", 32, 0.4, ["b.0", "b.1"]),
            group("b.1", 8, 0.1, ["b.1", "head"]),
        ],
        "frozen": [
            {"layer": "stem", "kind": "Conv2d", "side": "in", "channels": 3, "reason": "network input"},
            {"layer": "b.1", "kind": "Conv2d", "side": "out", "channels": 8, "reason": "tied <here>"},
            {"layer": "head", "kind": "Linear", "side": "out", "channels": 10, "reason": "network output"},
        ],
        "layers": [
            layer("stem", 16, ["stem"]),
            layer("bn", 16, ["stem"], rank=1),
            layer("b.0", 32, ["b.0"], ["stem"]),
            layer("b.1", 16, ["b.1"], ["b.0"]),
            layer("head", 10, [], ["b.1"], rank=2),
        ],
        "flops_share_cuttable": 0.97, "params_share_cuttable": 0.5,
        "smallest_flops_share": 0.02, "smallest_params_share": 0.03,
        **changes,
    }  # fmt: skip


def tree(found):
    return ElementTree.fromstring(draw(found))


def texts(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def test_rows_are_the_layers_with_matrices_in_order():
    assert [row.layer.name for row in rows(Structure(**document()))] == ["stem", "b.0", "b.1", "head"]


def test_a_layer_that_alone_has_a_group_is_drawn_whatever_its_weights():
    found = document(layers=[layer("scale", 16, ["stem"], rank=1), *document()["layers"][2:]])
    found["layers"][1]["reads"] = []
    assert rows(Structure(**found))[0].layer.name == "scale"


def test_groups_share_a_lane_only_when_they_do_not_meet():
    found = Structure(**document())
    placed = {line.group.name: line for line in lines(found, rows(found))}
    assert {name: line.span for name, line in placed.items()} == {
        "stem": (0, 1),
        "b.0": (1, 2),
        "b.1": (2, 3),
    }
    # b.0 begins where stem is still read; b.1 begins below stem's end
    assert [placed[name].lane for name in ("stem", "b.0", "b.1")] == [0, 1, 0]
    assert (placed["b.0"].makes, placed["b.0"].reads) == ((1,), (2,))


def test_it_is_one_file_without_scripts_and_links():
    text = draw(document())
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"
    assert not re.search(r"<script|<image|href|url\(|@import|<foreignObject", text)
    assert text.count("http") == 1  # the name space
    assert "prefers-color-scheme:dark" in text


def test_names_widths_shares_and_reasons_are_there():
    root = tree(document())
    shown = texts(root)
    assert {"stem", "b.0", "b.1", "head", "net<&>"} <= set(shown)
    assert {"16", "32", "10", "90.0 %", "40.0 %"} <= set(shown)
    assert "tied <here>: b.1" in shown
    titles = [element.text for element in root.iter(f"{SVG}title")]
    assert any("makes 8 channels that stay: tied <here>" in title for title in titles)
    assert any(title.startswith("stem: 16 channels (at least 1 stay") for title in titles)


def test_everything_is_within_the_picture():
    root = tree(document())
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter():
        x, y = float(element.get("x") or 0), float(element.get("y") or 0)
        if element.tag == f"{SVG}rect" and element.get("class") != "back":
            assert 0 <= x <= x + float(element.get("width")) <= width
        assert 0 <= y <= height - 4 or element.tag != f"{SVG}text"


def test_bars_are_as_long_as_what_they_stand_for():
    root = tree(document())
    bars = [e for e in root.iter(f"{SVG}rect") if e.get("height") == "9" and "fill" in e.get("class")]
    by_x = {}
    for bar in bars:
        by_x.setdefault(bar.get("x"), []).append(float(bar.get("width")))
    shares = by_x[max(by_x, key=float)]
    assert shares[1] / shares[0] == pytest.approx(0.4 / 0.9, rel=0.01)


def test_a_layer_that_partly_stays_is_partly_grey():
    bars = [e for e in tree(document()).iter(f"{SVG}rect") if "." in e.get("width")]
    grey = [bar for bar in bars if "grey" in bar.get("class")]
    assert len(grey) == 2  # half of b.1, all of head


def test_a_network_with_nothing_to_cut():
    layers = [layer("stem", 16), layer("head", 10, rank=2)]
    shown = texts(tree(document(groups=[], layers=layers)))
    assert any("nothing can be cut" in text for text in shown)


def test_many_reasons_end_in_a_count():
    kinds = "abcdefghij"
    frozen = [
        {"layer": "stem", "kind": "", "side": "in", "channels": 1, "reason": f"because {k}"} for k in kinds
    ]
    assert "and 4 more reasons, in the tooltips" in texts(tree(document(frozen=frozen)))


def test_long_names_keep_both_ends():
    name = "encoder.layers." + "x" * 60 + ".out_proj"
    found = document(layers=[*document()["layers"], layer(name, 4)])
    (shown,) = [text for text in texts(tree(found)) if "…" in text]
    assert shown.startswith("encoder.layers.") and shown.endswith("x.out_proj") and len(shown) == 46
