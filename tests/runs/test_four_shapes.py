"""One trained resnet18 as each library keeps it: every run starts from the same network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from jstc.recipe import loading
from jstc.runs.workspace import Workspace

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network whose every tensor counts: statistics too are other than at the beginning."""
    torch.manual_seed(0)
    network = resnet18(num_classes=10)
    for name, tensor in network.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    return network.eval()


def _start(model: str, weights: str) -> Tensor:
    flags: dict[str, Any] = {"model": model, "dataset": "digits", "flops": "0.5", "weights": weights}
    network = Workspace(loading.from_flags(flags, ["input.image_size=32", "device=cpu"])).new_target()
    with torch.no_grad():
        scores: Tensor = network.eval()(IMAGES)
    return scores


def _hugging_face(name: str) -> str:
    """What transformers calls one of torchvision's tensors."""
    kinds = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if found := re.match(r"(conv|bn)1\.(\w+)", name):
        return f"resnet.embedder.embedder.{kinds[found[1]]}.{found[2]}"
    if found := re.match(r"layer(\d)\.(\d)\.(conv|bn)(\d)\.(\w+)", name):
        stage, block, kind, at, end = found.groups()
        where = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
        return f"{where}.layer.{int(at) - 1}.{kinds[kind]}.{end}"
    if found := re.match(r"layer(\d)\.(\d)\.downsample\.(\d)\.(\w+)", name):
        stage, block, kind, end = found.groups()
        return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{kinds[kind]}.{end}"
    return name.replace("fc.", "classifier.1.")


@pytest.mark.parametrize("shape", ["torchvision", "timm", "lightning", "hugging face"])
def test_it_is_the_same_network(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    monkeypatch.chdir(tmp_path)
    state = dict(trained.state_dict())
    model, weights = "resnet18", "w.pt"
    if shape == "timm":
        pytest.importorskip("timm", reason="timm is not installed")
        model, weights = "timm:resnet18", "model.safetensors"
        save_file(state, weights)
    elif shape == "hugging face":
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        model, weights = "hf:./saved", "default"
        sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
        config = transformers.ResNetConfig(**sizes, layer_type="basic", num_labels=10)
        network = transformers.ResNetForImageClassification(config)
        network.load_state_dict({_hugging_face(name): tensor for name, tensor in state.items()})
        network.save_pretrained("saved")
    else:
        wrapped = {f"model.{name}": tensor for name, tensor in state.items()}
        beside = {"criterion.weight": torch.ones(10)}
        torch.save({"state_dict": wrapped | beside} if shape == "lightning" else state, weights)
    with torch.no_grad():
        torch.testing.assert_close(_start(model, weights), trained(IMAGES), rtol=1e-5, atol=1e-5)
