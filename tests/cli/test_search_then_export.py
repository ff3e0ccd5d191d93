"""The two commands of the first example, one after the other, on a network that trains in seconds."""

from __future__ import annotations

import json

import pytest

from jstc.core import numbers

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
def search(jstc_command, tmp_path):
    """Calls `jstc search` with a budget."""
    (tmp_path / "small.py").write_text(NETWORK)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return lambda *budget: jstc_command("search", "small.py:Small", "--dataset", "digits", *budget, *settings)


@pytest.fixture
def searched(search):
    return search("--flops", "0.5")


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


def test_a_network_within_flops_and_parameters(search, jstc_command, tmp_path):
    called = search("--params", "0.4", "--flops", "0.6")
    assert called.code == 0, called.err
    run = tmp_path / "runs" / "small.py-Small-digits-flops0.6-params0.4"
    assert run.is_dir()
    flops, params = json.loads((run / "target.json").read_text())["budget"]["bounds"]
    assert f" of {numbers.count(params['limit'])} parameters allowed" in called.out
    assert f" of {numbers.count(flops['limit'])} FLOPs allowed" in called.out
    result = json.loads((run / "search" / "result.json").read_text())
    assert result["flops"] <= flops["limit"] and result["params"] <= params["limit"]
    assert jstc_command("slim").code == 0
    summary = json.loads(jstc_command("report", "--json").out)
    assert [bound["metric"] for bound in summary["budget"]["bounds"]] == ["flops", "params"]
    for bound in summary["budget"]["bounds"]:
        assert bound["reached"] == summary["slim"][bound["metric"]] <= bound["limit"]
    text = jstc_command("report", "--markdown").out
    assert "**Budget of FLOPs: met.**" in text and "**Budget of parameters: met.**" in text


def test_budgets_given_one_by_one_share_a_search_and_another_bound(search, jstc_command, tmp_path):
    words = ("--flops", "0.5", "--flops", "0.7", "--params", "0.6")
    assert search(*words).code == 0
    run = tmp_path / "runs" / "small.py-Small-digits-flops0.7-0.5-params0.6"
    labels = ["flops0.7-params0.6", "flops0.5-params0.6"]
    before = {path: path.read_bytes() for path in sorted(run.glob("search/*/*"))}
    assert {path.parent.name for path in before} == set(labels)
    for label in labels:
        target, result = (
            json.loads((run / label / name).read_text()) for name in ("target.json", "search/result.json")
        )
        limits = {bound["metric"]: bound["limit"] for bound in target["budget"]["bounds"]}
        assert all(result[metric] <= limit for metric, limit in limits.items()) and len(limits) == 2
    again = search("--params", "0.6", "--flops", "0.7,0.5")  # the same run, which is done
    assert (again.code, list((tmp_path / "runs").iterdir())) == (0, [run])
    assert {path: path.read_bytes() for path in sorted(run.glob("search/*/*"))} == before
    assert [row["label"] for row in json.loads(jstc_command("report", "--json").out)["sweep"]] == labels
    alone = jstc_command(
        "search", "small.py:Small", "--dataset", "digits", "--flops", "0.5", "--flops", "50%"
    )
    assert (alone.code, alone.err) == (2, "error: --flops: the budget 0.5 is there twice\n")
