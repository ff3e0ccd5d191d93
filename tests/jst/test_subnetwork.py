from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.channels import ChannelMap, analyse
from jstc.core.seeds import derive
from jstc.data import Dataset
from jstc.jst.round import judge, train_round
from jstc.jst.subnetwork import SubNetwork, Target, cut, put_back
from jstc.plan import Plan
from jstc.recipe.schema import SearchSettings, TrainSettings
from jstc.train.loop import stream
from tests.helpers.tiny_search import tiny_network

# Group of each dimension of each tensor that is cut, as the network is written.
PLACES: dict[str, tuple[str | None, ...]] = {
    "stem.weight": ("stem", None),
    "wide.weight": ("wide", "stem"),
    "join.weight": ("stem", "wide"),
    "last.weight": ("last", "stem"),
    "fc.weight": (None, "last"),
    **{
        f"{layer}_bn.{name}": (group,)
        for layer, group in (("stem", "stem"), ("wide", "wide"), ("join", "stem"), ("last", "last"))
        for name in ("weight", "bias", "running_mean", "running_var")
    },
}
STARTS = {"stem": 0, "wide": 8, "last": 20}


def test_what_was_trained_is_forgotten_by_half_a_round(target: Target, plan: Plan) -> None:
    settings = TrainSettings()
    target.trained.zero_()
    other = Plan({n: tuple(range(w)) for n, w in plan.widths.items()}, plan.widths)
    for each in (plan, plan, other):
        put_back(cut(target, each, settings), target)
    kept = torch.zeros(36, dtype=torch.bool)
    kept[target.index(plan)] = True
    assert target.trained[kept].tolist() == [0.875] * int(kept.sum())
    assert target.trained[~kept].tolist() == [0.5] * int((~kept).sum())


def test_a_vector_over_all_channels_is_taken_apart_by_group(target: Target) -> None:
    parts = target.channels_of(torch.arange(36.0))
    assert [part.tolist() for part in parts] == [
        list(range(8)), list(range(8, 20)), list(range(20, 36))
    ]  # fmt: skip


def kept_mask(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """True where a tensor of the target belongs to the sub-network of `plan`."""
    if name in ("alpha", "moments", "steps", "trained"):
        kept = [STARTS[group] + i for group, channels in plan.kept.items() for i in channels]
        mask = torch.zeros(36, dtype=torch.bool)
        mask[kept] = True
        return mask.expand(tensor.shape)
    mask = torch.ones(tensor.shape, dtype=torch.bool)
    for dim, group in enumerate(PLACES.get(name.split(".", 1)[1], ())):
        if group is not None:
            inside = torch.zeros(tensor.shape[dim], dtype=torch.bool)
            inside[list(plan.kept[group])] = True
            mask &= inside.view(-1, *[1] * (tensor.dim() - dim - 1))
    return mask


def parts(sub: SubNetwork) -> dict[str, Tensor]:
    """Every tensor of a sub-network."""
    buffers = {name: sub.optimizer.state[p]["momentum_buffer"] for name, p in sub.parameters.items()}
    tensors = {f"network.{name}": t for name, t in sub.gated.network.state_dict().items()}
    tensors |= {f"momentum.{name}": t for name, t in buffers.items()}
    gates = {"alpha": sub.gated.alpha.detach(), "moments": sub.moments, "steps": sub.steps}
    return {name: t.clone() for name, t in (tensors | gates).items()}


def test_a_round_changes_the_kept_slices_and_nothing_else(
    target: Target, plan: Plan, make_context: Any, snapshot: Any
) -> None:
    context = make_context()
    before = snapshot(target)
    sub = cut(target, plan, context.recipe.train)
    train_round(sub, context, 3)
    judge(sub, context, limit=None)
    put_back(sub, target)
    after = snapshot(target)
    assert before.keys() == after.keys()
    for name, old in before.items():
        changed, kept = after[name] != old, kept_mask(name, old, plan)
        assert not changed[~kept].any(), f"{name}: channels changed that were not sampled"
        assert changed[kept].all(), f"{name}: not all sampled channels changed"


def test_training_a_sub_network_leaves_the_target_alone_until_it_is_put_back(
    target: Target, plan: Plan, make_context: Any, snapshot: Any
) -> None:
    context, before = make_context(), snapshot(target)
    for each in (plan, target.channels.full_plan):  # whole tensors are not shared either
        sub = cut(target, each, context.recipe.train)
        train_round(sub, context, 0)
        judge(sub, context, limit=None)
    after = snapshot(target)
    assert all(torch.equal(after[name], old) for name, old in before.items())


def test_what_was_put_back_is_cut_again_bit_for_bit(target: Target, plan: Plan, make_context: Any) -> None:
    context = make_context()
    sub = cut(target, plan, context.recipe.train)
    train_round(sub, context, 0)
    put_back(sub, target)
    once, again = parts(sub), parts(cut(target, plan, context.recipe.train))
    assert once.keys() == again.keys()
    for name, tensor in once.items():
        assert torch.equal(again[name], tensor), name


def test_cutting_takes_the_slices_of_everything(
    target: Target, plan: Plan, make_context: Any, snapshot: Any
) -> None:
    whole = snapshot(target)
    for name, tensor in parts(cut(target, plan, make_context().recipe.train)).items():
        expected = whole[name][kept_mask(name, whole[name], plan)]
        assert torch.equal(tensor.reshape(-1), expected), name


def test_the_sub_network_is_physically_small(
    target: Target, channels: ChannelMap, plan: Plan, make_context: Any
) -> None:
    sub = cut(target, plan, make_context().recipe.train)
    counts, network = plan.counts, sub.gated.network
    assert sum(p.numel() for p in sub.parameters.values()) == channels.cost(plan).params
    assert sub.gated.alpha.numel() == sum(counts.values()) < 36
    assert type(network) is type(target.network)
    assert network.wide.weight.shape == (counts["wide"], counts["stem"], 3, 3)
    momentum = sum(b["momentum_buffer"].numel() for b in sub.optimizer.state.values())
    assert momentum == channels.cost(plan).params


def test_without_momentum_there_is_none_to_map(
    network: Any, channels: ChannelMap, plan: Plan, make_context: Any
) -> None:
    context = make_context({"train.momentum": 0.0})
    target = Target.new(network, channels, context.recipe.train)
    sub = cut(target, plan, context.recipe.train)
    train_round(sub, context, 0)
    put_back(sub, target)
    assert target.optimizer == {}


def test_frozen_parameters_have_no_momentum_and_stay(
    network: Any, channels: ChannelMap, plan: Plan, make_context: Any
) -> None:
    network.wide.weight.requires_grad_(False)
    context, before = make_context(), network.wide.weight.clone()
    target = Target.new(network, channels, context.recipe.train)
    sub = cut(target, plan, context.recipe.train)
    train_round(sub, context, 0)
    put_back(sub, target)
    assert "wide.weight" not in target.optimizer["momentum"]
    assert torch.equal(network.wide.weight, before)


def test_steps_of_the_gates_are_those_of_adam(target: Target, plan: Plan, make_context: Any) -> None:
    target.moments.zero_()
    target.steps.zero_()
    sub = cut(target, plan, make_context().recipe.train)
    theirs = torch.nn.Parameter(sub.gated.alpha.detach().clone())
    adam = torch.optim.Adam([theirs], lr=0.02, betas=(0.9, 0.99), eps=1e-8)
    source = torch.Generator().manual_seed(0)
    for _ in range(4):
        theirs.grad = torch.randn(theirs.shape, generator=source)
        sub.step_gates(theirs.grad, SearchSettings(importance="learned", gate_lr=0.02))
        adam.step()
    assert torch.allclose(sub.gated.alpha, theirs, rtol=1e-5)


def test_each_gate_counts_its_own_steps(target: Target, plan: Plan, make_context: Any) -> None:
    """A channel seen for the first time takes a whole step, however long the others have been trained."""
    target.moments.zero_()
    target.steps.fill_(500.0)
    first = target.index(plan)[0]
    target.steps[first] = 0.0
    sub = cut(target, plan, make_context().recipe.train)
    before = sub.gated.alpha.detach().clone()
    sub.step_gates(torch.full_like(before, 0.3), SearchSettings(importance="learned", gate_lr=0.02))
    change = before - sub.gated.alpha.detach()
    assert change[0].item() == pytest.approx(0.02, rel=1e-3)
    assert change[1:].tolist() == pytest.approx([0.02 * 0.1 / 0.01**0.5] * (len(change) - 1), rel=0.01)


def test_gates_stop_at_zero(target: Target, plan: Plan, make_context: Any) -> None:
    target.moments.zero_()
    target.steps.zero_()
    sub = cut(target, plan, make_context().recipe.train)
    gradient = torch.ones_like(sub.gated.alpha.detach())
    gradient[1::2] = -1.0
    sub.step_gates(gradient, SearchSettings(importance="learned", gate_lr=5.0))
    assert (sub.gated.alpha[::2] == 0).all()
    assert (sub.gated.alpha[1::2] > 5).all()


# The gradient in the gates, from the training step itself


def normed() -> nn.Module:
    network = tiny_network()
    network.dropout.p = 0.0
    return network


def plain() -> nn.Module:
    """Without norms: gates scale the weights and biases of the layers, two of which share their channels."""
    conv = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, 6), (6, 8), (8, 6))]

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide, self.join = conv
            self.hidden, self.fc = nn.Linear(6, 10), nn.Linear(10, 3)

        def forward(self, images: Tensor) -> Tensor:
            x = self.stem(images).relu()
            x = (x + self.join(self.wide(x).relu())).relu()
            return self.fc(self.hidden(x.mean((2, 3))).relu())

    return Plain()


def mixed() -> nn.Module:
    """A layer with a bias and no norm, then a norm without one, and one whose norm has nothing to scale."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=True), nn.ReLU(),
        nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 10, 3, bias=True), nn.BatchNorm2d(10, affine=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3),
    )  # fmt: skip


def whole(network: nn.Module, settings: TrainSettings) -> Target:
    return Target.new(network, analyse(network, torch.zeros(1, 2, 8, 8)), settings)


def in_gates(sub: SubNetwork, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the loss in the gates, by torch, in training mode."""
    sub.gated.train()
    (gradient,) = torch.autograd.grad(F.cross_entropy(sub.gated(images), labels), [sub.gated.alpha])
    return gradient


@pytest.mark.parametrize("make", [normed, plain, mixed])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_slopes_are_the_gradients_in_gates_of_one(
    make: Callable[[], nn.Module], share: float, dataset: Dataset
) -> None:
    settings = TrainSettings(precision="float32")
    target = whole(make(), settings)
    sub = cut(target, target.channels.random_plan(flops=share, seed=1), settings)
    expected = torch.zeros_like(sub.slopes)
    for images, labels in dataset.train.ordered(32, limit=96):
        expected += in_gates(sub, images, labels).abs()
        sub.gated.network.zero_grad()
        F.cross_entropy(sub.gated.network(images), labels).backward()
        sub.add_slopes()
    torch.testing.assert_close(sub.slopes, expected, rtol=1e-3, atol=1e-6)
    assert expected.count_nonzero() > len(expected) / 2


def test_a_round_adds_the_gradients_at_the_weights_before_each_step(
    make_context: Any, dataset: Dataset
) -> None:
    changes = {"search.importance": "gradient", "search.steps_per_round": 1, "train.lr": 5.0}
    context = make_context(changes | {"train.warmup_epochs": 0, "input.augment": False})
    target = whole(normed(), context.recipe.train)
    sub = cut(target, target.channels.full_plan, context.recipe.train)
    seed, train = derive(0, "search", "train"), dataset.train
    [batch] = stream(train, 16, seed=seed, start=0, count=1, augment=False)
    expected = in_gates(sub, *batch).abs()
    train_round(sub, context, 0)
    torch.testing.assert_close(sub.slopes, expected, rtol=1e-3, atol=1e-6)
    assert in_gates(sub, *batch).abs().sum() != pytest.approx(expected.sum().item(), rel=0.1)


def test_slopes_that_are_not_finite_add_nothing(target: Target, plan: Plan, make_context: Any) -> None:
    sub = cut(target, plan, make_context().recipe.train)
    for parameter in sub.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    sub.gated.network.wide_bn.weight.grad[0] = float("inf")
    sub.gated.network.last_bn.weight.grad[1] = float("nan")
    sub.add_slopes()
    assert sub.slopes.isfinite().all()
    assert (sub.slopes == 0).sum() == 2
