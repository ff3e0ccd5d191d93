"""Classifiers of Hugging Face's transformers, of small configurations: all inside of them can be cut."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jstc.channels import analyse
from jstc.plan import Plan
from jstc.runs.stages.train import count

transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")

STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
TOKENS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "ResNet": {"embedding_size": 8, **STAGES},
    "ConvNext": STAGES,
    "ViT": {"image_size": 32, "patch_size": 8, **TOKENS},
    "MobileNetV2": {"depth_multiplier": 0.35, "image_size": 32},
    "Swin": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": 4,
        "image_size": 32,
        "patch_size": 4,
    },
}


class Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_everything_in_a_classifier_of_transformers_can_be_cut(name, apart):
    configuration = getattr(transformers, f"{name}Config")(num_labels=10, **CONFIGURATIONS[name])
    kind = getattr(transformers, f"{name}ForImageClassification")
    model, images = Logits(kind(configuration)).double().eval(), torch.randn(2, 3, 32, 32).double()
    channels = analyse(model, images[:1])
    assert channels.coverage > 0.99 and not channels.unknown_operations
    assert not [f for f in channels.frozen if f.reason.startswith("cannot be cut")]
    plan = channels.random_plan(flops=0.5, seed=0)
    small, cost = channels.slice(model, plan), channels.cost(plan)
    assert count(small, images[:1]) == (cost.flops, cost.params)
    small.train()(images).sum().backward()
    whole = {name: tuple(range(channels.widths[name])) for name in channels.inexact}
    exact = Plan({**plan.kept, **whole}, channels.widths)
    masked = copy.deepcopy(model)
    channels.mask(masked, exact)
    with torch.inference_mode():
        assert apart(channels.slice(model, exact)(images), masked(images)) < 1e-9
