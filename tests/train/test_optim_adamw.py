from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jstc.recipe.schema import TrainSettings
from jstc.train import optim
from jstc.train.optim import PartialAdamW

SETTINGS = TrainSettings(optimizer="adamw", lr=0.05, weight_decay=0.1, betas=(0.8, 0.95))
OPTIONS = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}


def gradients(number: int, *shape: int) -> list[Tensor]:
    source = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=source) for _ in range(number)]


def steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, found: list[Tensor]) -> None:
    for gradient in found:
        parameter.grad = gradient.clone()
        optimizer.step()


def test_with_equal_counts_it_is_torchs_adamw() -> None:
    ours, theirs = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    steps(PartialAdamW([ours], **OPTIONS), ours, gradients(5, 4, 3))
    steps(torch.optim.AdamW([theirs], **OPTIONS), theirs, gradients(5, 4, 3))
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(ours, torch.ones(4, 3), atol=0.1)


def test_every_element_is_trained_as_if_it_were_alone() -> None:
    """The first of three rows has had no step, the second two, the third thirty."""
    before = (0, 2, 30)
    start, later = gradients(30, 3), gradients(4, 3, 3)[1:]
    expected = []
    ours = nn.Parameter(torch.ones(3, 3))
    optimizer = PartialAdamW([ours], **OPTIONS)
    for row, number in enumerate(before):
        alone = nn.Parameter(torch.ones(3))
        own = torch.optim.AdamW([alone], **OPTIONS)
        steps(own, alone, start[:number])
        with torch.no_grad():
            ours[row] = alone
            for name, value in own.state[alone].items():
                optimizer.state[ours][name][row] = value
        steps(own, alone, [gradient[row] for gradient in later])
        expected.append(alone.detach())
    steps(optimizer, ours, later)
    assert torch.allclose(ours, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert optimizer.state[ours]["step"].tolist() == [[number + 3.0] * 3 for number in before]


def test_biases_and_norms_have_no_weight_decay() -> None:
    layer = nn.Linear(3, 3)
    for partial in (False, True):
        optimizer = optim.make(dict(layer.named_parameters()), SETTINGS, partial=partial)
        decays = {tuple(g["params"][0].shape): g["weight_decay"] for g in optimizer.param_groups}
        assert decays == {(3, 3): 0.1, (3,): 0.0}
        assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("partial", [False, True])
def test_the_state_goes_out_by_name_and_comes_back(partial: bool) -> None:
    layer = nn.Linear(2, 3)
    named = dict(layer.named_parameters())
    first, second = (optim.make(named, SETTINGS, partial=partial) for _ in range(2))
    layer(torch.ones(1, 2)).sum().backward()
    first.step()
    state = optim.get_state(first, named)
    assert state.keys() == {"exp_avg", "exp_avg_sq", "steps"}
    assert state["steps"]["bias"].shape == ((3,) if partial else ())
    assert all((tensor == 1).all() for tensor in state["steps"].values())
    optim.set_state(second, named, state)
    again = optim.get_state(second, named)
    assert all(torch.equal(t, again[kind][n]) for kind, own in state.items() for n, t in own.items())
    assert again["exp_avg"]["weight"] is not state["exp_avg"]["weight"]


def test_the_state_of_another_optimiser_is_refused() -> None:
    named = dict(nn.Linear(2, 3).named_parameters())
    theirs = optim.new_state(named, TrainSettings())
    with pytest.raises(ValueError, match=r"of another kind: \['momentum'\]"):
        optim.set_state(optim.make(named, SETTINGS), named, theirs)


def test_state_that_is_there_from_the_start_trains_like_torchs_own() -> None:
    ours, theirs = (nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    steps(optim.make({"w": ours}, SETTINGS), ours, gradients(3, 3, 3))
    steps(torch.optim.AdamW([theirs], **OPTIONS, fused=True), theirs, gradients(3, 3, 3))
    assert torch.equal(ours, theirs)
