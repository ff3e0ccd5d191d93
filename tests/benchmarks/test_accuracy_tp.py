"""Torch-Pruning as a rival: it sees the same network, and what it keeps is what is trained on."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from benchmarks.accuracy import cut as accuracy_cut
from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy import pretrained as accuracy_pretrained
from benchmarks.accuracy.settings import Job, Settings
from benchmarks.accuracy.work import Work

pytest.importorskip("torch_pruning")
from benchmarks.accuracy import torch_pruning as accuracy_tp

SMALL = Settings(images=200, epochs=1.5, batch=32, test_images=60, device="cpu", taylor_images=32)


@pytest.fixture(params=["tp-l2", "tp-taylor"])
def work(request, tmp_path):
    job = Job("digits-50", request.param, 0, SMALL)
    dataset = accuracy_data.load(job, root=None, out=tmp_path, where=torch.device("cpu"))
    return Work.of(job, dataset, where=torch.device("cpu"), directory=tmp_path / "job", cache=tmp_path)


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def _mixed(network):
    """Batch norms that are not all alike, so that channels differ."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return network


def test_it_sees_the_same_function(work, images):
    network = _mixed(work.target()).eval()
    seen = copy.deepcopy(network)
    accuracy_tp.traceable(seen)
    assert not any(type(m).__name__ == "PaddedShortcut" for m in seen.modules())
    assert torch.equal(seen.eval()(images), network(images))


def test_the_sliced_network_is_its_pruned_network(work, images):
    network = _mixed(work.target())
    gradients = {n: torch.rand_like(p) for n, p in network.named_parameters()}
    pruned = accuracy_tp._marked(network, gradients)
    accuracy_tp._prune(pruned, work, 0.3)
    plan = accuracy_tp.kept_by(pruned, work.channels)
    assert set(plan.counts) == set(work.channels.widths) and plan != work.channels.full_plan
    assert all(plan.counts[name] >= 0.1 * width for name, width in work.channels.widths.items())
    small = work.channels.slice(network, plan)
    for module in pruned.modules():  # as they were before the channels' numbers were written there
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1.0)
    assert torch.allclose(pruned.eval()(images), small.eval()(images), atol=1e-5)


def test_it_is_cut_to_the_budget_and_everything_is_paid(work):
    outcome = accuracy_tp.pruned(work)
    assert 0.9 * work.limit < outcome.flops <= work.limit
    taylor = work.job.method == "tp-taylor"
    assert set(work.ledger.spent) == {"pretraining", "finetune"} | ({"pruning"} if taylor else set())
    if taylor:
        assert work.ledger.spent["pruning"] == 32 * work.channels.cost().flops
    assert work.ledger.left < work.batch * outcome.flops


@pytest.mark.parametrize("method", ["cut-tp-l2", "cut-tp-taylor"])
def test_of_given_weights_it_cuts_by_the_same_plan(method, tmp_path):
    settings = dataclasses.replace(SMALL, given_epochs=0.5, finetune="0")
    job = Job("digits-50", method, 0, settings)
    dataset = accuracy_data.load(job, root=None, out=tmp_path, where=torch.device("cpu"))
    work = Work.of(job, dataset, where=torch.device("cpu"), directory=tmp_path / "job", cache=tmp_path)
    outcome = accuracy_cut.cut(work)
    _, plan = accuracy_tp.planned(accuracy_pretrained.given(work), work)
    assert outcome.extra["counts"] == plan.counts and outcome.flops <= work.limit
    assert "reconstruction" not in outcome.extra["search"]


def test_the_pretrained_network_is_shared_and_charged_to_each(work, tmp_path):
    other = Work.of(work.job, work.dataset, where=work.where, directory=tmp_path / "other", cache=work.cache)
    one, again = accuracy_pretrained.pretrained(work), accuracy_pretrained.pretrained(other)
    assert not (tmp_path / "other").exists()
    assert work.ledger.spent == other.ledger.spent and work.clock.wall == other.clock.wall
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
