"""The two commands of the first example, one after the other, on a network that trains in seconds."""

from __future__ import annotations

import json

import pytest

NETWORK = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))
"""
SETTINGS = [
    "baseline=true", "device=cpu", "threads=1", "input.image_size=8", "search.rounds=2",
    "search.coarse_share=0.34",
    "search.steps_per_round=2", "search.eval_images=50", "finetune.epochs=1",
    "finetune.steps_per_epoch=2", "export.parity_images=8",
]  # fmt: skip


@pytest.fixture
def searched(jstc_command, tmp_path):
    (tmp_path / "small.py").write_text(NETWORK)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return jstc_command("search", "small.py:Small", "--dataset", "digits", "--flops", "0.5", *settings)


def test_search_followed_by_export(jstc_command, searched, tmp_path):
    assert searched.code == 0, searched.err
    called = jstc_command("export", "--json")
    assert called.code == 0, called.err
    announced = [line for line in called.err.splitlines() if line.endswith("running it first")]
    assert announced == [
        "finetune has not run yet: running it first",
        "slim has not run yet: running it first",
    ]
    document = json.loads(called.out)
    run = tmp_path / document["run"]
    assert document["stage"] == "export"
    assert (run / document["files"][0]["file"]).exists()
    states = {
        name: record["state"]
        for name, record in json.loads((run / "manifest.json").read_text())["stages"].items()
    }
    done = {name for name, state in states.items() if state == "done"}
    assert done == {"search", "finetune", "slim", "export"}  # and no baseline, though the recipe asks for one
