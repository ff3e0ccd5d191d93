"""The zoo: its lists, its checks on a tiny network, its results file and its table."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch
from torch import nn

from benchmarks.zoo import __main__ as zoo
from benchmarks.zoo import check as zoo_check
from benchmarks.zoo import names as zoo_names
from benchmarks.zoo import table as zoo_table
from benchmarks.zoo.record import Record
from jstc.channels import ChannelMap

ENVIRONMENT = {
    "environment": {
        "cpu": "a CPU",
        "cores": 2,
        "memory_gb": 8.0,
        "os": "an OS",
        "python": "3.11",
        "packages": {"torch": "2.0"},
    },
    "command": "python -m benchmarks.zoo --set timm",
}
PASSED = {
    "failures": {},
    "seconds": 3.0,
    "input": [3, 224, 224],
    "flops": 2_000_000_000,
    "params": 5_000_000,
    "groups": 12,
    "coverage": 0.998,
    "smallest": 0.6,
    "frozen": 1010,
    "frozen_inside": 7,
    "reasons": [["meets a dimension | of fixed size", 7]],
    "unknown": {"aten.fold": 2},
    "analyse_seconds": 0.123,
    "slice": {"flops_share": 0.61, "params_share": 0.5, "seconds": 0.02},
    "counts": {"ours": [1, 2], "fvcore": [1, 2]},
    "forward": {},
    "masked": {"groups_left_whole": 0, "max_rel_diff": 3e-15, "effect": 0.5},
    "onnx": {"max_abs_diff": 1e-6, "relative": 2e-7, "seconds": 5.0, "bytes": 10},
}
PEER = {"share": 0.5, "ratio": 0.3, "problem": None, "their_share": 0.51, "failures": {}}


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.two, self.classifier = nn.Conv2d(16, 24, 3), nn.Linear(24, 10)

    def forward(self, images):
        hidden = torch.relu(self.two(torch.relu(self.norm(self.one(images)))))
        return self.classifier(hidden.mean((2, 3)))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    network = Tiny().eval()
    zoo_names.randomise(network)
    return network


@pytest.fixture
def image():
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def table_row(document: str, name: str) -> list[str]:
    (line,) = (line for line in document.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# -- lists -------------------------------------------------------------------------------------------


def test_the_list_of_timm_has_every_module_with_a_classifier():
    timm = pytest.importorskip("timm")
    names = [name.removeprefix("timm:") for name in zoo_names.names_of("timm")]
    assert len(names) == len(set(names)) == 100
    encoders = {"deepseek_vit", "gemma4_vit", "qwen3_vit"}
    missing = [
        module
        for module in timm.list_modules()
        if not set(timm.list_models(module=module)) & set(names) and module not in encoders
    ]
    if timm.__version__.startswith("1.0.31"):  # other versions have other modules
        assert missing == []
    assert [name for name in names if not timm.is_model(name)] == []


def test_the_list_of_torchvision_is_its_own():
    names = zoo_names.names_of("torchvision")
    assert len(names) == len(set(names)) >= 80
    assert {"alexnet", "vit_h_14", "swin_v2_t"} < set(names)


def test_images_have_the_size_that_a_network_is_made_for():
    assert zoo_names.image_size("inception_v3") == (299, 299)
    assert zoo_names.image_size("resnet18") == (224, 224)


def test_random_weights_tell_channels_apart():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4))
    network.scale = nn.Parameter(torch.full((4, 1, 1), 1e-6))
    network.table = nn.Parameter(torch.zeros(3, 4))
    convolution = network[0].weight.detach().clone()
    zoo_names.randomise(network)
    for name, tensor in network.state_dict().items():
        if tensor.numel() > 1:
            assert tensor.flatten().unique().numel() > 1, name
    assert torch.equal(network[0].weight, convolution)
    assert network.scale.min() > 0.4


# -- checks ------------------------------------------------------------------------------------------


def test_a_tiny_network_passes(tiny, image):
    record = Record()
    zoo_check.check(record, tiny, image, onnx=False)
    found = record.found
    assert found["failures"] == {} and found["stage"] == "done"
    assert (found["groups"], found["frozen"], found["frozen_inside"]) == (2, 13, 0)
    assert found["flops"] == 16 * 27 * 64 + 2 * 16 * 64 + 24 * 144 * 36 + 240
    assert 0.3 < found["slice"]["flops_share"] <= 0.5
    assert found["masked"]["max_rel_diff"] < 1e-12 < found["masked"]["effect"]


def test_a_failure_is_recorded_and_the_rest_is_still_done(tiny, image, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo_check, "count", lambda network, image: (1, 2))
    record = Record(tmp_path / "result.json")
    zoo_check.check(record, tiny, image, onnx=False)
    found = json.loads((tmp_path / "result.json").read_text())
    assert list(found["failures"]) == ["counts"]
    assert "fvcore counts 1 FLOPs and 2 parameters" in found["failures"]["counts"]
    assert "max_rel_diff" in found["masked"]


def test_a_wrong_slice_does_not_pass_for_a_masked_network(tiny, image, monkeypatch):
    masked = ChannelMap.mask

    def less(channels, network, plan):
        masked(channels, network, plan)
        network.two.bias.data += 1e-6

    monkeypatch.setattr(ChannelMap, "mask", less)
    record = Record()
    zoo_check.check(record, tiny, image, onnx=False)
    assert list(record.found["failures"]) == ["masked"]


def test_a_network_that_cannot_run_fails_in_analysis(image):
    record = Record()
    zoo_check.check(record, nn.Linear(5, 2), image)
    assert list(record.found["failures"]) == ["analyse"]
    assert record.found["failures"]["analyse"].startswith("ChannelError: ")


# -- one process a network -----------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Stands in for the module of the checks."""

    def write(text: str) -> None:
        (tmp_path / "zoo_check.py").write_text(f"import pathlib, sys, time\n{text}\n")

    monkeypatch.setattr(zoo, "_MODULES", {"check": "zoo_check"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return write


FOUND = 'pathlib.Path(sys.argv[2]).write_text(\'{"failures": {}, "stage": "onnx", "groups": 3}\')'


def test_a_process_out_of_time_leaves_what_it_found(script):
    script(f"{FOUND}; time.sleep(60)")
    found = zoo.run_part("check", "some", limit=1, arguments=[])
    assert found["groups"] == 3 and found["failures"] == {"onnx": "not done after 1 s"}


def test_a_process_that_dies_is_a_failure_with_its_last_words(script):
    script('sys.exit("no such thing")')
    found = zoo.run_part("check", "some", limit=60, arguments=[])
    assert found["failures"] == {"start": "the process ended with 1: no such thing"}


def test_networks_that_are_known_are_not_done_again(script, tmp_path, monkeypatch, capsys):
    results, table = tmp_path / "zoo.jsonl", tmp_path / "zoo.md"
    script(FOUND.replace('"stage": "onnx"', '"stage": "done"').replace("3}", '3, "seconds": 1.5}'))
    options = ["zoo.py", "resnet18", "--results", str(results), "--table", str(table)]
    for extra in ([], [], ["--fresh"]):
        monkeypatch.setattr(sys, "argv", [*options, *extra])
        assert zoo.main() == 0
    assert capsys.readouterr().err.count("resnet18: passed in 1.5 s") == 2
    assert sum('"name"' in line for line in results.read_text().splitlines()) == 1
    assert table_row(table.read_text(), "resnet18")[4] == "3"


def test_a_failure_is_the_exit_code(script, tmp_path, monkeypatch, capsys):
    script("sys.exit(3)")
    monkeypatch.setattr(sys, "argv", ["zoo.py", "resnet18", "--results", str(tmp_path / "zoo.jsonl")])
    assert zoo.main() == 1
    assert "1 failed: resnet18" in capsys.readouterr().err


def test_later_lines_add_to_earlier_ones(tmp_path):
    path = tmp_path / "zoo.jsonl"
    lines = [ENVIRONMENT, {"name": "a", **PASSED}, {"name": "a", "peer": PEER}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    environments, networks = zoo.load(path)
    assert environments == [ENVIRONMENT]
    assert networks == {"a": {"name": "a", **PASSED, "peer": PEER}}


# -- table ---------------------------------------------------------------------------------------------


def test_table_of_checks():
    failed = {"failures": {"onnx": "StageError: no"}, "seconds": 1.0, "coverage": 0.5, "analyse_seconds": 2}
    text = zoo_table.document([ENVIRONMENT], {"timm:b": failed, "timm:a": PASSED, "resnet18": PASSED})
    assert text.index("## torchvision") < text.index("## timm")
    assert table_row(text, "a") == [
        *("a", "224", "2", "5", "12", "99.8%", "60.00%", "7 (meets a dimension / of fixed size)"),
        *("aten.fold 2", "0.12", "61.0%", "0.020", "yes", "yes", "3e-15", "2e-07"),
    ]
    assert table_row(text, "b")[2:] == ["-"] * 3 + ["50.0%", "-", "-", "-", "2.00"] + ["-"] * 5 + ["**no**"]
    assert "1 of 2 networks pass every check" in text and "- b, onnx: StageError: no\n" in text
    assert "Half the FLOPs is out of reach for 1: a." in text
    assert "Measured on a CPU, 2 cores, 8.0 GB, an OS; Python 3.11, torch 2.0." in text
    assert "Torch-Pruning" not in text


def test_table_of_peers():
    seconds = {"ours": [1.0], "ours_median": 1.0, "theirs": [3.0], "theirs_median": 3.0}
    slower = {**seconds, "theirs_median": 0.5}
    peers = {
        "alexnet": {**PEER, **seconds},
        "resnet18": {**PEER, **slower, "their_share": 0.7},
        "resnet34": {"share": 0.5, "warm_up_seconds": 2.0, "failures": {"torch-pruning": "KeyError: 1"}},
        "resnet50": {**PEER, **seconds, "problem": "RuntimeError: shapes", "their_share": None},
        "vgg11": {"failures": {"jstc": "ChannelError: no"}},
    }
    text = zoo_table.document([], {name: {**PASSED, "peer": peer} for name, peer in peers.items()})
    rows = text[text.index("## Beside") :]
    assert table_row(rows, "alexnet") == ["alexnet", "1.00", "3.00", "3.00", "1", "50.0%", "51.0%", "runs"]
    assert table_row(rows, "resnet34")[1:3] == ["2.00", "-"]
    assert table_row(rows, "resnet34")[-1] == "fails: KeyError: 1"
    assert table_row(rows, "resnet50")[-1] == "pruned, but does not run: RuntimeError: shapes"
    assert "runs for 2 of 4; for 1 of them at the share asked for" in rows
    assert "median 1.75, least 0.50 (resnet18); jstc is the slower for 1 of 2" in rows
    assert "from Torch-Pruning: resnet34, resnet50.\n" in rows
    assert "jstc failed or ran out of time: vgg11.\n" in rows
