from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jstc.channels import GatedNetwork, analyse
from jstc.errors import RunDirectoryError
from jstc.plan import Plan
from jstc.train import handover


@pytest.fixture
def plan_and_gated(network: nn.Module) -> tuple[Plan, GatedNetwork]:
    channels = analyse(network, torch.zeros(1, 2, 8, 8))
    plan = channels.uniform_plan(params=0.5)
    alpha = {name: torch.rand(count) for name, count in plan.counts.items()}
    return plan, channels.gated(channels.slice(network, plan), plan, alpha)


def state(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_what_is_saved_is_restored(plan_and_gated: tuple[Plan, GatedNetwork], tmp_path: Path) -> None:
    plan, gated = plan_and_gated
    momentum = {"conv.weight": torch.rand_like(gated.network.conv.weight)}
    before, gates = state(gated), {name: gate.clone() for name, gate in gated.gates.items()}
    handover.save_subnetwork(
        tmp_path / "s.safetensors", gated, optimizer={"momentum": momentum}, plan=plan, step=41
    )
    with torch.no_grad():
        for tensor in gated.parameters():
            tensor.zero_()
    loaded = handover.load_subnetwork(tmp_path / "s.safetensors", plan=plan)
    loaded.restore(gated)
    assert loaded.step == 41
    assert torch.equal(loaded.optimizer["momentum"]["conv.weight"], momentum["conv.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in gated.state_dict().items())
    assert all(torch.equal(gate, gates[name]) for name, gate in gated.gates.items())


def test_another_plan_is_refused(plan_and_gated: tuple[Plan, GatedNetwork], tmp_path: Path) -> None:
    plan, gated = plan_and_gated
    handover.save_subnetwork(tmp_path / "s.safetensors", gated, optimizer={}, plan=plan, step=0)
    with pytest.raises(RunDirectoryError, match="another plan"):
        handover.load_subnetwork(tmp_path / "s.safetensors", plan=Plan.full(plan.widths))


def test_tensors_of_another_model_are_refused(
    plan_and_gated: tuple[Plan, GatedNetwork], tmp_path: Path
) -> None:
    plan, gated = plan_and_gated
    handover.save_subnetwork(tmp_path / "s.safetensors", gated, optimizer={}, plan=plan, step=0)
    gated.network.fc = nn.Linear(5, 3)
    with pytest.raises(RunDirectoryError, match="does not fit the model"):
        handover.load_subnetwork(tmp_path / "s.safetensors", plan=plan).restore(gated)
