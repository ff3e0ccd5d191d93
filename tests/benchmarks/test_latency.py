"""The comparison of latencies: kinds of networks, cuts at the budget, shares of the ideal."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("resource")

import torch
from torch import nn

from benchmarks.latency import __main__ as latency
from benchmarks.latency import networks
from jstc.channels import analyse
from jstc.runs.stages.train import count


class Chain(nn.Module):
    """Three convolutions and a classifier; the middle widths are free."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(),
            nn.Conv2d(128, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Chain().eval()


@pytest.mark.parametrize(
    ("name", "tool", "seed", "step"),
    [("dense", "dense", None, 1), ("jstc-uniform", "jstc", None, "auto"), ("jstc-random2", "jstc", 2, "auto"),
     ("jstc-uniform@16", "jstc", None, 16), ("tp-local@8", "tp", None, 8), ("tp-global", "tp", None, 1)],
)  # fmt: skip
def test_a_name_says_how_a_network_is_cut(name, tool, seed, step):
    kind = networks.parse(name)
    assert (kind.tool, kind.seed, kind.step) == (tool, seed, step)
    assert kind.is_global == (name == "tp-global")


@pytest.mark.parametrize("name", ["jstc", "tp-random", "dense@8", "jstc-uniform@x"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="no such network"):
        networks.parse(name)


@pytest.mark.parametrize(("name", "step"), [("jstc-uniform", 8), ("jstc-random1@16", 16)])
def test_jstc_cuts_within_the_budget_in_its_steps(network, name, step):
    small = networks.cut_by_jstc(network, IMAGE, networks.parse(name), share=0.5)
    whole, left = count(network, IMAGE)[0], count(small, IMAGE)[0]
    assert 0.9 * whole / 2 <= left <= whole / 2
    widths = networks._widths(small)
    assert widths != networks._widths(network)
    assert all(width % step == 0 for width in widths)


def test_random_plans_differ_by_their_seed(network):
    def widths(name: str) -> list[int]:
        return networks._widths(networks.cut_by_jstc(network, IMAGE, networks.parse(name), share=0.5))

    assert widths("jstc-random0") != widths("jstc-random1")
    assert widths("jstc-random0") == widths("jstc-random0")


@pytest.mark.parametrize("name", ["tp-local@8", "tp-global@8"])
def test_torch_pruning_comes_near_the_budget(network, name):
    pytest.importorskip("torch_pruning")
    small = networks.cut_by_torch_pruning(network, IMAGE, networks.parse(name), share=0.5)
    whole = analyse(network, IMAGE).cost().flops
    assert count(small, IMAGE)[0] / whole == pytest.approx(0.5, abs=0.1)
    assert all(width % 8 == 0 for width in networks._widths(small))


def test_the_share_of_the_ideal_is_the_speed_up_over_the_flops():
    seconds = np.tile([4.0, 2.0, 3.0], (20, 1)) * np.linspace(1, 2, 20)[:, None]
    found = latency.lines(seconds, {"dense": 100, "jstc-uniform": 25, "tp-local@8": 50}, batch=8)
    assert [line.batch for line in found] == [8, 8, 8]
    assert [line.speedup.median for line in found] == pytest.approx([1, 2, 4 / 3])
    assert [line.share.median for line in found] == pytest.approx([1, 0.5, 2 / 3])
    assert found[1].median_ms == pytest.approx(3000)


def test_shares_of_both_tools_are_put_beside_each_other():
    flops = {"dense": 100, "jstc-uniform": 25, "tp-local@8": 50}
    seconds = np.tile([4.0, 2.0, 3.0], (20, 1))
    [(ours, beside)] = latency.compared(seconds, flops).items()
    assert (ours, list(beside)) == ("jstc-uniform", ["tp-local@8"])
    assert beside["tp-local@8"].median == pytest.approx(0.5 / (2 / 3))


def test_the_table_and_the_document_have_every_network():
    flops = {"dense": 100, "jstc-uniform": 50, "tp-local@8": 50}
    seconds = np.tile([4.0, 2.0, 2.5], (20, 1))
    measured = {"lines": latency.lines(seconds, flops, batch=1), "beside": latency.compared(seconds, flops)}
    text = "\n".join(latency.table(measured["lines"], measured["beside"], rounds=20))
    assert "batch 1, 20 rounds" in text
    assert "1.250 (1.250-1.250)" in text
    document = json.loads(json.dumps(latency._plain(measured)))
    assert document["lines"][2]["share"]["median"] == pytest.approx(0.8)
    assert document["beside"]["jstc-uniform"]["tp-local@8"]["low"] == pytest.approx(1.25)
