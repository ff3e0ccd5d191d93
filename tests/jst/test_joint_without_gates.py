"""A network whose norms have no affine parameters has no place for a gate; it is searched all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jstc.channels import analyse


def test_a_network_without_a_place_for_gates_is_searched(
    network: Any, run_search: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("stem_bn", "wide_bn", "join_bn", "last_bn"):
        norm = getattr(network, name)
        norm.affine, norm.weight, norm.bias = False, None, None
    channels = analyse(network, torch.zeros(1, 2, 8, 8))
    assert channels.gated_groups == () and len(channels.groups) == 3
    run = run_search(tmp_path, {"search.rounds": 2}, network=network)
    assert [record["alpha_spread"] for record in run.history] == [0.0, 0.0]
    assert run.result["flops"] <= channels.cost().flops // 2
