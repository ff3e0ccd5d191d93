"""The slim network: folded, written, and loaded again from tensors and a spec alone."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import jstc
from jstc import models, slim
from jstc.channels import ChannelMap, GatedNetwork, analyse, fold
from jstc.channels.trace.ids import named_tensors
from jstc.core import files
from jstc.errors import JstcError, ModelError, RunDirectoryError, StageError
from jstc.models import ModelSpec
from jstc.models.cifar_networks import CifarResNet
from jstc.plan import Plan
from jstc.train import handover


@dataclass(frozen=True)
class Trained:
    """A gated sub-network as finetune leaves it in `source`."""

    spec: ModelSpec
    target: nn.Module
    channels: ChannelMap
    plan: Plan
    gated: GatedNetwork
    source: Path
    images: Tensor

    def emit(self, directory: Path) -> dict[str, float]:
        options = {"plan": self.plan, "source": self.source, "directory": directory, "images": self.images}
        return slim.emit(self.target, self.channels, self.spec, **options)


def trained(spec: ModelSpec, source: Path, *, share: float = 0.5) -> Trained:
    target = models.build(spec, seed=0)
    images = torch.randn(4, *spec.input_shape, generator=torch.Generator().manual_seed(0))
    channels = analyse(target, images[:1])
    plan = channels.random_plan(flops=share, seed=1)
    gated = channels.gated(channels.slice(target, plan), plan).train()
    gated(images)  # running statistics other than those of a fresh network
    generator = torch.Generator().manual_seed(2)
    gated.alpha.data.uniform_(0.5, 1.5, generator=generator)
    momentum = {name: torch.zeros_like(p) for name, p in gated.network.named_parameters()}
    handover.save_subnetwork(
        source / "subnetwork.safetensors", gated, optimizer={"momentum": momentum}, plan=plan, step=7
    )
    return Trained(spec, target, channels, plan, gated.eval(), source, images)


def resnet20() -> ModelSpec:
    return models.spec("resnet20", num_classes=10, in_channels=3, height=32, width=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Trained:
    return trained(resnet20(), tmp_path_factory.mktemp("finetune"))


@pytest.fixture
def emitted(run, tmp_path) -> Path:
    run.emit(tmp_path / "slim")
    return tmp_path / "slim"


def output(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(images)


def test_the_loaded_network_computes_what_the_gated_one_did(run, emitted):
    network = slim.load(emitted)
    gated, plain = output(run.gated, run.images), output(run.gated.network, run.images)
    assert (output(network, run.images) - gated).abs().max() <= slim.FOLD_TOLERANCE
    assert (plain - gated).abs().max() > 100 * slim.FOLD_TOLERANCE  # the gates do something


def test_it_is_an_ordinary_network_of_its_own_class_and_of_the_plans_size(run, emitted):
    network = slim.load(emitted)
    assert type(network) is CifarResNet and not network.training
    assert all(type(p) is nn.Parameter and p.requires_grad for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) == run.channels.cost(run.plan).params
    assert all(
        m.weight.shape[0] == m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)
    )


def test_the_report_says_what_folding_changed(run, tmp_path):
    found = run.emit(tmp_path)
    assert found.keys() == {"max_abs_diff_fold", "max_abs_diff_fold_limit", "rounding", "unreached"}
    before, after = output(run.gated, run.images), output(slim.load(tmp_path), run.images)
    assert found["max_abs_diff_fold"] == float((before - after).abs().max())
    assert found["max_abs_diff_fold_limit"] == slim.FOLD_TOLERANCE
    assert found["rounding"]["error"] < 1e-5 and found["rounding"]["norm"] in dict(run.target.named_modules())
    assert found["unreached"]["weights"] == 0


def test_the_files_are_those_two_and_hold_what_they_should(run, emitted):
    assert sorted(p.name for p in emitted.iterdir()) == ["model.json", "model.safetensors"]
    assert files.read_json(emitted / "model.json") == {
        "schema": 1,
        "model": run.spec.to_dict(),
        "attributes": {},
        "plan_hash": run.plan.hash,
    }
    tensors = load_file(emitted / "model.safetensors")
    assert tensors.keys() == {name for name, _ in named_tensors(run.target)}
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}


def test_the_target_network_is_left_alone(run, tmp_path):
    before = {name: t.clone() for name, t in named_tensors(run.target)}
    run.emit(tmp_path)
    assert all(torch.equal(t, before[name]) for name, t in named_tensors(run.target))


def test_emitting_again_gives_the_same_bytes(run, tmp_path):
    for name in ("first", "second"):
        run.emit(tmp_path / name)
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_target_on_another_device_or_in_another_type_is_no_obstacle(run, tmp_path):
    run.target.double()
    try:
        run.emit(tmp_path)
    finally:
        run.target.float()
    assert (output(slim.load(tmp_path), run.images) - output(run.gated, run.images)).abs().max() < 1e-5


def test_loading_runs_in_a_process_that_never_analysed_anything(run, emitted):
    code = (
        "import sys, jstc, torch; network = jstc.load(sys.argv[1]);"
        "torch.save(network(torch.ones(1, 3, 32, 32)).detach(), sys.argv[2])"
    )
    out = emitted / "out.pt"
    subprocess.run([sys.executable, "-c", code, emitted, out], check=True)
    expected = output(run.gated, torch.ones(1, 3, 32, 32))
    assert (torch.load(out, weights_only=True) - expected).abs().max() < 1e-5
    assert jstc.load(str(emitted)).training is False


def test_nothing_is_pickled(emitted, monkeypatch):
    import pickle

    def refused(*_args, **_options):
        raise AssertionError("a pickle")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    monkeypatch.setattr(torch, "load", refused)
    slim.load(emitted)


def test_folding_that_changes_an_output_is_refused(run, tmp_path, monkeypatch):
    def other(gated):
        network = fold(gated)
        network.linear.bias.data[0] += 2e-5  # a little more than rounding
        return network

    monkeypatch.setattr(slim, "fold", other)
    with pytest.raises(StageError, match=r"folding the gates changed an output by .*e-05, above 1e-05"):
        run.emit(tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


def changed(run: Trained, directory: Path, change: Callable[[nn.Module], object]) -> Trained:
    """The sub-network of `run` with other values, in `directory`."""
    gated = run.channels.gated(run.channels.slice(run.target, run.plan), run.plan)
    gated.network.load_state_dict(run.gated.network.state_dict())
    gated.load_gates(run.gated.gates)
    with torch.no_grad():
        change(gated.network)
    handover.save_subnetwork(directory / "subnetwork.safetensors", gated, optimizer={}, plan=run.plan, step=1)
    return replace(run, source=directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e33])
def test_values_that_no_training_leaves_are_refused(run, tmp_path, value):
    spoilt = changed(run, tmp_path, lambda network: network.linear.bias[3].fill_(value))
    with pytest.raises(StageError, match="holds values that no sound training leaves") as caught:
        spoilt.emit(tmp_path / "slim")
    assert [line.split(":")[0] for line in caught.value.details] == ["linear.bias"]
    assert not (tmp_path / "slim").exists()


def test_garbage_where_no_image_reaches_is_refused_and_such_weights_are_counted(tmp_path):
    spec = models.spec("resnet20", num_classes=10, in_channels=3, height=4, width=4)
    run = trained(spec, tmp_path / "sound")
    found = run.emit(tmp_path / "slim")["unreached"]
    assert found["layers"][-1] == "layer3.2.conv2" and 0 < found["share"] < 1
    last = dict(slim.load(tmp_path / "slim").named_parameters())["layer3.2.conv2.weight"]
    assert found["weights"] >= 8 * last.shape[0] * last.shape[1]  # 8 of 9 positions, on a map of one value

    def spoil(network):
        network.layer3[2].conv2.weight[1, 0, 2, 2] = 2.5  # no size that is odd elsewhere

    with pytest.raises(StageError, match=r"layer3\.2\.conv2\.weight: 8 of the 9 .* hold up to 2\.5"):
        changed(run, tmp_path / "spoilt", spoil).emit(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert (
        output(slim.load(tmp_path / "slim"), run.images) - output(run.gated, run.images)
    ).abs().max() < 1e-5


def test_a_sub_network_of_another_plan_is_refused(run, tmp_path):
    other = replace(run, plan=run.channels.random_plan(flops=0.5, seed=9))
    with pytest.raises(RunDirectoryError, match="belongs to another plan"):
        other.emit(tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


def test_a_slim_network_of_another_plan_is_refused(run, emitted):
    assert type(slim.load(emitted, plan=run.plan)) is CifarResNet
    other = run.channels.random_plan(flops=0.5, seed=9)
    expected = rf"has the network of another plan \({run.plan.hash[:12]}, expected {other.hash[:12]}\)"
    refused(emitted, f"{expected}; run `jstc slim {emitted.parent} --fresh`", plan=other)
    refused(emitted, "of another plan", plan=other, target=run.target)


def test_it_is_made_from_the_target_network_where_that_is_at_hand(run, emitted):
    files.write_json(emitted / "model.json", {**GOOD, "model": {**GOOD["model"], "name": "/no/net.py:make"}})
    refused(emitted, "if you trust that code")
    refused(emitted, "if you trust that code", target=run.target, allow_code="resnet20")
    network = slim.load(emitted, target=run.target)  # builds nothing, and runs nobody's code
    assert network is not run.target and not network.training
    assert (output(network, run.images) - output(run.gated, run.images)).abs().max() <= slim.FOLD_TOLERANCE
    (emitted / "model.safetensors").write_bytes(b"")
    refused(emitted, "model.safetensors cannot be loaded", target=run.target)


def test_a_folder_copied_elsewhere_loads_alone(run, emitted, tmp_path):
    shutil.copytree(emitted, tmp_path / "elsewhere" / "net")
    shutil.rmtree(emitted)
    network = jstc.load(tmp_path / "elsewhere" / "net")
    assert (output(network, run.images) - output(run.gated, run.images)).abs().max() <= slim.FOLD_TOLERANCE


# -- what load refuses ---------------------------------------------------------------------------------


def refused(folder: Path, match: str, kind: type[JstcError] = ModelError, **options: Any) -> None:
    with pytest.raises(kind, match=match):
        slim.load(folder, **options)


def test_a_folder_without_a_slim_network(tmp_path):
    refused(tmp_path, "no slim network in .* run `jstc slim` first")
    refused(tmp_path / "nowhere", "no slim network in")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_missing_files(emitted, name):
    (emitted / name).unlink()
    refused(emitted, "model.json" if name == "model.json" else "model.safetensors cannot be loaded")


GOOD = {"schema": 1, "model": resnet20().to_dict(), "plan_hash": ""}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({**GOOD, "schema": 2}, "schema 2 is not 1"),
        ({**GOOD, "schema": None}, "schema None is not 1"),
        ({"model": GOOD["model"]}, "not the spec of a slim network"),
        ({"schema": 1}, "not the spec of a slim network"),
        ([], "not the spec of a slim network"),
        ("text", "not the spec of a slim network"),
        (None, "not the spec of a slim network"),
        ({**GOOD, "model": None}, "expected a JSON object"),
        ({**GOOD, "model": {**GOOD["model"], "more": 1}}, "unknown keys"),
        ({**GOOD, "model": {"name": "resnet20"}}, "missing keys"),
        ({**GOOD, "model": {**GOOD["model"], "num_classes": "10"}}, "num_classes is '10'"),
        ({**GOOD, "model": {**GOOD["model"], "height": -1}}, "height is -1"),
        ({**GOOD, "model": {**GOOD["model"], "cifar": 1}}, "cifar is 1"),
    ],
)
def test_other_specs(emitted, document, complaint):
    files.write_json(emitted / "model.json", document)
    refused(emitted, complaint)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"NaN"])
def test_specs_that_are_no_json(emitted, content):
    (emitted / "model.json").write_bytes(content)
    refused(emitted, "not the spec of a slim network")


def test_specs_of_other_networks(emitted):
    for change in (
        {"name": "resnet32"},
        {"num_classes": 5},
        {"in_channels": 1},
        {"name": "resnet18", "cifar": False},
    ):
        files.write_json(emitted / "model.json", {**GOOD, "model": {**GOOD["model"], **change}})
        refused(emitted, "model.safetensors cannot be loaded")
    files.write_json(emitted / "model.json", {**GOOD, "model": {**GOOD["model"], "name": "resnet21"}})
    refused(emitted, "did you mean 'resnet", JstcError)


TAMPERED = {
    "a tensor is missing": lambda t: t.pop("linear.bias"),
    "a tensor too many": lambda t: t.update(extra=torch.zeros(1)),
    "another name": lambda t: t.update({"linear.bias2": t.pop("linear.bias")}),
    "wider than the target": lambda t: t.update({"linear.weight": torch.zeros(11, 64)}),
    "another rank": lambda t: t.update({"linear.bias": torch.zeros(10, 1)}),
    "narrower than its norm": lambda t: t.update({"conv1.weight": t["conv1.weight"][:-1].clone()}),
    "a narrower norm": lambda t: t.update({"bn1.weight": t["bn1.weight"][:-1].clone()}),
    "narrower statistics": lambda t: t.update({"bn1.running_mean": t["bn1.running_mean"][:-1].clone()}),
    "no channels": lambda t: t.update({"conv1.weight": t["conv1.weight"][:0].clone()}),
    "whole numbers": lambda t: t.update({"conv1.weight": t["conv1.weight"].long()}),
    "another precision": lambda t: t.update({"conv1.weight": t["conv1.weight"].double()}),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_tensors_that_do_not_fit(emitted, how):
    tensors = load_file(emitted / "model.safetensors")
    TAMPERED[how](tensors)
    save_file(tensors, emitted / "model.safetensors")
    refused(emitted, "model.safetensors cannot be loaded")


def test_damaged_tensors(emitted):
    path = emitted / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[:-4], b"\xff" * 100, b"PK\x03\x04" + whole):
        path.write_bytes(content)
        refused(emitted, "model.safetensors cannot be loaded")


# -- networks of other origin ---------------------------------------------------------------------------

USER = """
import pathlib
from torch import nn

pathlib.Path(__file__).with_name("ran").touch()

class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))

def make(num_classes):
    return Small(num_classes)
"""


def test_a_network_of_the_users_own_runs_code_only_when_allowed(tmp_path):
    (tmp_path / "net.py").write_text(USER)
    spec = models.spec(f"{tmp_path / 'net.py'}:make", num_classes=4, in_channels=3, height=8, width=8)
    run = trained(spec, tmp_path / "finetune")
    run.emit(tmp_path / "slim")
    (tmp_path / "ran").unlink()
    for allowed in (False, "", "os:abort", f"./{spec.name}"):
        refused(tmp_path / "slim", "if you trust that code", allow_code=allowed)
    assert not (tmp_path / "ran").exists()
    slim.load(tmp_path / "slim", allow_code=spec.name)
    network = slim.load(tmp_path / "slim", allow_code=True)
    assert (tmp_path / "ran").exists() and type(network).__name__ == "Small"
    assert (output(network, run.images) - output(run.gated, run.images)).abs().max() < 1e-5


def test_a_network_of_torchvision(tmp_path):
    spec = models.spec("squeezenet1_1", num_classes=4, in_channels=3, height=64, width=64)
    run = trained(spec, tmp_path / "finetune", share=0.3)
    run.emit(tmp_path / "slim")
    network = slim.load(tmp_path / "slim")
    assert type(network) is type(run.target)
    assert (output(network, run.images) - output(run.gated, run.images)).abs().max() < 1e-5
    assert json.loads((tmp_path / "slim" / "model.json").read_text())["model"]["name"] == "squeezenet1_1"


def test_what_a_spec_claims_fills_no_memory(emitted):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files.write_json(emitted / "model.json", {**GOOD, "model": {**GOOD["model"], "num_classes": 1_000_000}})
    refused(emitted, "it has no layer with 1000000 outputs")
    files.write_json(
        emitted / "model.json", {**GOOD, "model": {**GOOD["model"], "height": 8192, "width": 8192}}
    )
    slim.load(emitted)  # a network for images of any size
    files.write_json(
        emitted / "model.json", {**GOOD, "model": {**GOOD["model"], "height": 16384, "width": 16384}}
    )
    refused(emitted, "is too large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
