from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jstc.recipe.schema import TrainSettings
from jstc.train import optim

SETTINGS = TrainSettings(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


def by_hand(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        decayed = gradient + decay * weight
        momentum = 0.9 * momentum + decayed
        weight = weight - 0.1 * (decayed + 0.9 * momentum)
    return weight


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_equal_the_formula_in_every_layout(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3).to(memory_format=layout)
    start = {name: tensor.detach().clone() for name, tensor in conv.named_parameters()}
    optimizer = optim.make(dict(conv.named_parameters()), SETTINGS)
    gradients: dict[str, list[Tensor]] = {"weight": [], "bias": []}
    for _ in range(3):
        optimizer.zero_grad()
        conv(torch.randn(2, 3, 6, 6)).square().mean().backward()
        for name, tensor in conv.named_parameters():
            gradients[name].append(tensor.grad.clone())
        optimizer.step()
    assert torch.allclose(conv.weight, by_hand(start["weight"], gradients["weight"], 0.01), atol=1e-6)
    assert torch.allclose(conv.bias, by_hand(start["bias"], gradients["bias"], 0.0), atol=1e-6)


def test_momentum_that_is_there_from_the_start_trains_like_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    first = optim.make({"w": ours}, SETTINGS)
    second = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True)
    for _ in range(3):
        gradient = torch.randn(3, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    assert torch.equal(ours, theirs)


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    named = dict(layer.named_parameters())
    assert optim.get_state(optim.make(named, SETTINGS), named)["momentum"].keys() == {"weight"}


def test_momentum_goes_out_by_name_and_comes_back() -> None:
    layer = nn.Linear(2, 3)
    named = dict(layer.named_parameters())
    optimizer = optim.make(named, SETTINGS)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = {name: tensor.clone() for name, tensor in optim.get_state(optimizer, named)["momentum"].items()}
    assert torch.equal(saved["bias"], torch.ones(3))
    again = optim.make(named, SETTINGS)
    optim.set_state(again, named, {"momentum": saved})
    found = optim.get_state(again, named)["momentum"]
    assert all(torch.equal(t, saved[n]) for n, t in found.items())


@pytest.mark.parametrize(
    ("momentum", "message"),
    [({"weight": torch.zeros(3, 2)}, "differ.*bias"), ({"weight": torch.zeros(2, 2)}, "differ")],
)
def test_momentum_of_other_parameters_is_refused(momentum: dict[str, Tensor], message: str) -> None:
    named = dict(nn.Linear(2, 3).named_parameters())
    with pytest.raises(ValueError, match=message):
        optim.set_state(optim.make(named, SETTINGS), named, {"momentum": momentum})


def test_momentum_of_another_shape_is_refused() -> None:
    named = dict(nn.Linear(2, 3).named_parameters())
    wrong = {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"'weight' has shape \[2, 2\], not \[3, 2\]"):
        optim.set_state(optim.make(named, SETTINGS), named, {"momentum": wrong})


def test_no_momentum_means_plain_sgd() -> None:
    layer = nn.Linear(2, 3)
    named = dict(layer.named_parameters())
    optimizer = optim.make(named, TrainSettings(momentum=0.0, nesterov=True))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optim.get_state(optimizer, named) == {}
    optim.set_state(optimizer, named, {})


def test_parameters_that_are_not_dense_do_not_take_the_fused_kernel() -> None:
    wide = torch.zeros(4, 6)
    assert optim.make({"w": wide.requires_grad_()}, SETTINGS).defaults["fused"]
    cut = torch.zeros(4, 6)[:, :3].requires_grad_()
    assert not optim.make({"w": cut}, SETTINGS).defaults["fused"]
