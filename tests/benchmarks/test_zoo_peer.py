"""Torch-Pruning in the zoo: told what it needs, brought to the share of FLOPs that is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.zoo import peer as zoo_peer
from benchmarks.zoo.record import Record

pytest.importorskip("torch_pruning")


@pytest.fixture
def image():
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1000)).eval()


def test_both_bring_a_network_to_the_same_share(network, image):
    record = Record()
    zoo_peer.compare(record, network, image, repeats=2)
    found = record.found["peer"]
    assert record.found["failures"] == {} and found["problem"] is None
    assert found["share"] == pytest.approx(0.5, abs=0.01)
    assert found["their_share"] == pytest.approx(found["share"], abs=0.02)
    assert len(found["ours"]) == len(found["theirs"]) == 2
    assert network[0].out_channels == 64  # both worked on copies


def test_a_failure_of_theirs_is_recorded_and_ours_is_timed(network, image, monkeypatch):
    def fail(*_):
        raise KeyError("no such node")

    monkeypatch.setattr(zoo_peer, "prune", fail)
    record = Record()
    zoo_peer.compare(record, network, image, repeats=2)
    assert record.found["failures"] == {"torch-pruning": "KeyError: 'no such node'"}
    assert len(record.found["peer"]["ours"]) == 2 and "theirs" not in record.found["peer"]


def test_other_ratios_are_tried_where_the_pruned_network_does_not_run(network, image, monkeypatch):
    tried = []

    def at(network, image, ratio, whole):
        tried.append(ratio)
        problem = "RuntimeError: shapes" if ratio != 0.25 else None
        return zoo_peer.PeerResult(ratio, None if problem else 0.5, problem)

    monkeypatch.setattr(zoo_peer, "_at", at)
    assert zoo_peer.find_ratio(network, image, share=0.5, whole=1).ratio == 0.25
    assert tried == [0.29, 0.25]
