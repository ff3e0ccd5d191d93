"""A network with an operation of its own, a detector: what can be cut in them, from the command line."""

from __future__ import annotations

import json

import pytest

SOURCE = """
import torch
from torch import nn

import jstc

@torch.library.custom_op("jstc_cli_test::soft_threshold", mutates_args=())
def soft_threshold(x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return x.sign() * torch.relu(x.abs() - threshold[:, None, None])

@soft_threshold.register_fake
def _(x, threshold):
    return torch.empty_like(x)

RULE

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.threshold = nn.Parameter(torch.rand(16))
        self.out = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.out(soft_threshold(self.stem(x), self.threshold).mean((2, 3)))
"""
RULE = """
@jstc.rule("jstc_cli_test::soft_threshold")
def _(tracing, call):
    labels = tracing.labels(call["x"])
    tracing.tie(labels[1], tracing.labels(call["threshold"])[0])
    return labels
"""


def test_a_rule_beside_the_network_is_used(jstc_command, tmp_path):
    # The rule stays registered, so the file without one comes first.
    documents = []
    for name, rule in (("without", ""), ("with", RULE)):
        (tmp_path / f"{name}.py").write_text(SOURCE.replace("RULE", rule).replace("cli_test", f"cli_{name}"))
        done = jstc_command("inspect", f"{name}.py:Net", "--dataset", "digits", "--json")
        assert done.code == 0, done.err
        documents.append(json.loads(done.out))
    assert [[(g["name"], g["width"]) for g in d["groups"]] for d in documents] == [[], [("stem", 16)]]
    assert "has no rule" in json.dumps(documents[0]["frozen"])


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fcn_resnet50"])
def test_networks_of_other_tasks_are_inspected(jstc_command, name):
    done = jstc_command("inspect", name, "--json")
    assert done.code == 0, done.err
    groups = json.loads(done.out)["groups"]
    assert groups and all(g["name"].startswith(("backbone.", "classifier.")) for g in groups)


@pytest.mark.parametrize("name", ["ssd300_vgg16", "deeplabv3_resnet50"])
def test_networks_of_other_tasks_are_not_trained_on_labels(jstc_command, tmp_path, name):
    done = jstc_command("search", name, "--dataset", "digits", "--flops", "0.5")
    assert (done.code, done.out) == (2, "")
    assert f"model '{name}' is a" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()
