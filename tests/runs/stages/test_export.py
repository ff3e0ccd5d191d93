"""The export stage on a network that has learned the digits: every file with its own figures and gate."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from jstc import export, slim
from jstc.core import files
from jstc.core.progress import Silent
from jstc.data import Epoch
from jstc.errors import GateError, ParityError, StageError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs.stages import export as export_stage
from jstc.runs.workspace import StageContext, Workspace
from jstc.soundness import rounding
from jstc.train import loop

SETTINGS = ["input.image_size=8", "device=cpu", "threads=1", "export.parity_images=16"]
FLAGS = {"model": "resnet20", "dataset": "digits", "flops": "0.5"}


class Net(nn.Module):
    """Convolutions with nothing but a ReLU between: scales can be moved from one to the other."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2)
        self.fc = nn.Linear(32 * 9, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.conv1(x)))).flatten(1))


def workspace(*settings):
    return Workspace(loading.from_flags(FLAGS, [*SETTINGS, *settings]))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    network, data = Net(), workspace().dataset
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for epoch in range(4):
        for images, labels in data.train_full.shuffled(32, Epoch(0, epoch, augment=False)):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
    return network.eval()


@pytest.fixture
def exported(trained, tmp_path, monkeypatch):
    """Runs the stage for a network with some settings; gives its result and its folder."""

    def run(*settings, network=trained, slim_figures=None):
        shared = workspace(*settings)
        monkeypatch.setattr(slim, "load", lambda folder, **_options: network)
        accuracy = loop.evaluate(network, shared.dataset.test.ordered(256)).accuracy
        assert accuracy > 0.9
        params = sum(parameter.numel() for parameter in network.parameters())
        result = {"flops": 1000, "params": params, "accuracy": accuracy, **(slim_figures or {})}
        files.write_json(tmp_path / "slim" / "result.json", result)
        Plan({"g": (0,)}, {"g": 2}).save(tmp_path / "search" / "plan.json")
        return export_stage.export(StageContext(shared, tmp_path, tmp_path / "export", Silent()))

    return run


def scaled(network, factor):
    """The same function, with activations of one channel `factor` times as large as the others'."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.conv1.weight[0] *= factor
        other.conv1.bias[0] *= factor
        other.conv2.weight[:, 0] /= factor
    return other


def names(folder):
    return sorted(path.name for path in folder.glob("*.onnx"))


def test_every_precision_has_its_own_figures(exported, tmp_path):
    result = exported("export.precisions=[fp32, fp16, int8]")
    entries = {entry["precision"]: entry for entry in result["files"]}
    assert list(entries) == ["fp32", "fp16", "int8"]
    for entry in entries.values():
        assert abs(entry["accuracy"] - result["torch_accuracy"]) <= 0.01
        assert entry["bytes"] == (tmp_path / entry["file"]).stat().st_size
    differences = [entries[name]["max_abs_diff"] for name in ("fp32", "fp16", "int8")]
    assert differences == sorted(differences)
    assert differences[0] < 1e-4 < differences[2]
    sizes = [entries[name]["bytes"] for name in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert names(tmp_path / "export") == ["model.fp16.onnx", "model.int8.onnx", "model.onnx"]


def test_a_file_tells_its_precision_and_its_own_accuracy(exported, tmp_path):
    [entry] = exported("export.precisions=[int8]", "export.calibration_images=40")["files"]
    told = export.read_metadata(tmp_path / entry["file"])
    assert (told["precision"], told["accuracy"]) == ("int8", entry["accuracy"])
    assert told["labels"] == [str(digit) for digit in range(10)]
    assert names(tmp_path / "export") == ["model.int8.onnx"]
    assert "model.int8.onnx" in (tmp_path / "export" / "MODEL_CARD.md").read_text()


def test_an_int8_that_collapses_is_refused_with_the_figure_and_not_kept(exported, trained, tmp_path):
    files.write_text(tmp_path / "export" / "model.int8.onnx", "of an attempt before")
    with pytest.raises(GateError) as caught:
        exported("export.precisions=[fp32, fp16, int8]", network=scaled(trained, 3000))
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert message.startswith("model.int8.onnx loses ")
    assert "% in torch; at most 1 may be lost" in message
    assert message.endswith("leave out int8 (--precision). Passed: model.onnx, model.fp16.onnx")
    assert names(tmp_path / "export") == ["model.fp16.onnx", "model.onnx"]


def test_activations_that_half_precision_cannot_hold_are_refused(exported, trained, tmp_path):
    with pytest.raises(GateError, match=r"model\.fp16\.onnx: activations reach .*e\+0., and float16 ends at"):
        exported("export.precisions=[fp16]", network=scaled(trained, 1e6))
    assert names(tmp_path / "export") == []


def test_more_may_be_lost_where_that_is_allowed(exported, trained, tmp_path):
    result = exported(
        "export.precisions=[int8]", "export.max_accuracy_drop=100", network=scaled(trained, 3000)
    )
    assert result["files"][0]["accuracy"] < result["torch_accuracy"] - 0.01
    assert names(tmp_path / "export") == ["model.int8.onnx"]


def test_a_float32_graph_that_disagrees_with_torch_stops_the_stage(exported, trained, tmp_path, monkeypatch):
    other, write = copy.deepcopy(trained), export.write_onnx
    with torch.no_grad():
        other.fc.bias[3] += 0.01
    monkeypatch.setattr(
        export, "write_onnx", lambda network, *args, **options: write(other, *args, **options)
    )
    with pytest.raises(ParityError, match=r"model\.onnx and the network differ by 0\.01 in the logits"):
        exported("export.precisions=[fp32, int8]")
    assert names(tmp_path / "export") == []


def ill_conditioned(network):
    """The same classes, with each image's brightness magnified on the way, and its rounding with it."""

    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = copy.deepcopy(network)
            self.norm = nn.BatchNorm1d(1, eps=0.0, affine=False).eval()
            self.norm.running_var.fill_(1e-6)

        def forward(self, x):
            steep = torch.sin(self.norm(self.norm(x.mean((1, 2, 3)).unsqueeze(1))))
            return self.body(x) * (1 + 1e-2 * steep)

    return Steep().eval()


def test_what_float32_cannot_hold_is_allowed_by_what_torch_itself_is_off(exported, trained):
    steep = ill_conditioned(trained)
    [entry] = exported(network=steep, slim_figures={"undecided": 3})["files"]
    found = rounding(steep, images(16))
    assert found.ill_conditioned and found.norm == "norm"
    assert entry["max_abs_diff_limit"] == found.limit(1e-4) > 1e-3
    assert entry["max_abs_diff"] <= entry["max_abs_diff_limit"]
    [usual] = exported()["files"]
    assert usual["max_abs_diff_limit"] == 1e-4


def images(count):
    return torch.cat([batch for batch, _ in workspace().dataset.test.ordered(count, limit=count)])


def test_a_float32_file_gives_the_networks_accuracy_again(exported, trained, tmp_path):
    shared = workspace()
    accuracy = loop.evaluate(trained, shared.dataset.test.ordered(256)).accuracy
    figures = {"accuracy": accuracy + 1 / shared.dataset.test.num_images, "undecided": 0}
    with pytest.raises(
        ParityError, match=r"model\.onnx has \d+ of .* test images right, the network in torch"
    ):
        exported(slim_figures=figures)
    assert names(tmp_path / "export") == []
    assert exported(slim_figures=figures | {"undecided": 1})["files"]


def test_a_slim_network_with_garbage_is_not_exported(exported, trained, tmp_path):
    spoilt = copy.deepcopy(trained)
    spoilt.conv2.weight.data[5] = 0.0
    spoilt.conv2.bias.data[5] = -1e33  # behind a ReLU: no answer shows it
    with pytest.raises(StageError, match=r"conv2\.bias: 1 of 32 values are above"):
        exported(network=spoilt)
    assert names(tmp_path / "export") == []


def test_files_with_preprocessing_come_after_the_plain_ones(exported, tmp_path):
    settings = ["export.precisions=[fp32, fp16]", "export.with_preprocess=true", "export.batch=3"]
    entries = exported(*settings, "export.fp16_io=float16")["files"]
    assert [entry.get("preprocess", False) for entry in entries] == [False, False, True, True]
    assert {entry["batch"] for entry in entries} == {3}
    assert {tmp_path / entry["file"] for entry in entries} == {*(tmp_path / "export").glob("*.onnx")}
    accuracies = [entry["accuracy"] for entry in entries]
    assert max(accuracies) - min(accuracies) < 0.01
    assert all(entry["max_abs_diff"] < 0.05 for entry in entries)
