"""Cut networks mended without training: layers fitted to what the uncut network gave."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import jstc
from jstc.channels import ChannelMap
from jstc.channels.reconstruction.least_squares import Layer
from jstc.errors import ChannelError
from jstc.plan import Plan

IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def norm(width: int) -> nn.BatchNorm2d:
    """A norm with statistics and scales of its own."""
    layer = nn.BatchNorm2d(width)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.normal_(layer.bias, std=0.2)
    nn.init.normal_(layer.running_mean, std=0.2)
    nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return layer


class Copied(nn.Module):
    """A network half of whose first channels repeat the others: nothing is lost with them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.out = nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.Linear(6, 4)
        with torch.no_grad():
            self.first.weight[4:] = 1.5 * self.first.weight[:4]
            self.first.bias[4:] = 1.5 * self.first.bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.norm(self.first(x))))
        return self.out(torch.relu(x).mean((2, 3)))


class Block(nn.Module):
    """A residual block between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 3, padding=1)
        self.stem, self.norm = nn.Conv2d(16, 12, 3, padding=1, bias=False), norm(12)
        self.inner, self.norm1 = nn.Conv2d(12, 12, 3, padding=1, bias=False), norm(12)
        self.outer, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), norm(12)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.added(x)).mean((2, 3)))

    def added(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(torch.relu(self.wide(x)))))
        return x + self.norm2(self.outer(torch.relu(self.norm1(self.inner(x)))))


class Sum(Block):
    """A network whose output is the sum of a stream and a branch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x)


class Separable(nn.Module):
    """Depthwise and grouped convolutions between pointwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm, self.point = norm(16), nn.Conv2d(16, 16, 1)
        self.grouped, self.out = nn.Conv2d(16, 8, 3, groups=2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(torch.relu(self.norm(self.depth(torch.relu(self.first(x)))))))
        return self.out(torch.relu(self.grouped(x)).mean((2, 3)))


class Fixed(nn.Module):
    """A layer in a list that no module call reaches: one weight in use twice, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.lstm, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(torch.relu(self.shared(torch.relu(self.first(x))))))
        return self.out(self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1])


def made(network: type[nn.Module]) -> tuple[nn.Module, ChannelMap]:
    torch.manual_seed(0)
    model = network().eval()
    return model, jstc.analyse(model, IMAGES[:1])


def mended(
    model: nn.Module, channels: ChannelMap, plan: Plan, batches: Sequence[object] | None = None
) -> tuple[nn.Module, nn.Module]:
    """The cut network as it was, and mended."""
    cut, small = channels.slice(model, plan), channels.slice(model, plan)
    channels.reconstruct(model, small, plan, batches or [(IMAGES[:32], None)])
    return cut.eval(), small.eval()


def error(network: nn.Module, model: nn.Module) -> float:
    """The mean square difference to the whole network, as a share of its outputs' variance."""
    with torch.no_grad():
        wanted = model(IMAGES[32:])
        return float((network(IMAGES[32:]) - wanted).square().mean() / wanted.var())


def test_what_the_removed_channels_gave_is_taken_from_copies_of_them() -> None:
    model, channels = made(Copied)
    kept = {g.name: tuple(range(g.width)) for g in channels.groups} | {"first": (0, 1, 2, 3)}
    cut, small = mended(model, channels, Plan(kept, dict(channels.widths)))
    assert error(cut, model) > 0.05
    assert error(small, model) < 1e-4


def test_a_branch_that_can_be_fitted_mends_what_is_added_to_it() -> None:
    model, channels = made(Block)
    cut, small = mended(model, channels, channels.uniform_plan(flops=0.3))
    assert error(small, model) < 0.25 * error(cut, model)


def test_depthwise_and_grouped_layers() -> None:
    model, channels = made(Separable)
    plan = channels.uniform_plan(flops=0.5)
    small = channels.slice(model, plan)
    found = channels.reconstruct(model, small, plan, [IMAGES[:32]])
    assert {"point", "grouped", "out"} <= found.layers.keys()
    assert error(small.eval(), model) < 0.25 * error(channels.slice(model, plan).eval(), model)


def test_the_sum_is_what_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, channels = made(Sum)
    plan = channels.uniform_plan(flops=0.3)
    with_sums = error(mended(model, channels, plan)[1], model)
    monkeypatch.setattr("jstc.channels.reconstruction.reconstruct._added", lambda *_, **__: None)
    assert with_sums < 0.98 * error(mended(model, channels, plan)[1], model)


def test_only_the_small_network_changes_and_the_same_twice() -> None:
    model, channels = made(Block)
    model.train()
    before = copy.deepcopy(model.state_dict())
    plan = channels.uniform_plan(flops=0.3)
    first, second = (mended(model, channels, plan)[1].state_dict() for _ in range(2))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_a_whole_network_has_nothing_to_mend() -> None:
    model, channels = made(Block)
    small = channels.slice(model, channels.full_plan)
    found = channels.reconstruct(model, small, channels.full_plan, [IMAGES])
    assert found.layers == {}
    assert all(torch.equal(t, small.state_dict()[name]) for name, t in model.state_dict().items())


def test_each_layer_says_what_it_explains() -> None:
    model, channels = made(Block)
    plan = channels.uniform_plan(flops=0.3)
    found = channels.reconstruct(model, channels.slice(model, plan), plan, [IMAGES])
    assert list(found.layers) == ["stem", "inner", "outer", "out"]
    assert all(layer.before < layer.after <= 1 for layer in found.layers.values())
    assert found.images == len(IMAGES)


def test_layers_that_cannot_be_fitted_are_named() -> None:
    model, channels = made(Fixed)
    plan = channels.random_plan(flops=0.5, seed=0)
    found = channels.reconstruct(model, channels.slice(model, plan), plan, [IMAGES])
    assert found.left_out["shared"] == "its weights are used more than once"
    assert "lstm" in found.left_out or all("lstm" not in g.layers for g in channels.groups)


def test_fewer_images_where_the_memory_is_bounded() -> None:
    model, channels = made(Block)
    plan, batches = channels.uniform_plan(flops=0.3), [IMAGES[:16], IMAGES[16:32]]
    whole = channels.reconstruct(model, channels.slice(model, plan), plan, batches)
    bound = whole.memory // 4
    few = channels.reconstruct(model, channels.slice(model, plan), plan, batches, memory=bound)
    assert (whole.images, few.images) == (32, 8)
    assert few.memory <= bound


def test_processes_that_add_their_sums_up_get_one_network() -> None:
    model, channels = made(Block)
    plan = channels.uniform_plan(flops=0.3)
    smalls = [channels.slice(model, plan) for _ in range(2)]
    meeting, sent = threading.Barrier(2), [[], []]

    def add_up(rank: int) -> Callable[[Sequence[Tensor]], None]:
        def work(tensors: Sequence[Tensor]) -> None:
            sent[rank] = [tensor.clone() for tensor in tensors]
            meeting.wait(60)
            for tensor, a, b in zip(tensors, *sent, strict=True):
                tensor.copy_(a + b)
            meeting.wait(60)

        return work

    def process(rank: int) -> None:
        part = IMAGES[16 * rank : 16 * rank + 16]
        channels.reconstruct(copy.deepcopy(model), smalls[rank], plan, [part], add_up=add_up(rank))

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    one, other = (small.eval().state_dict() for small in smalls)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert error(smalls[0], model) < 0.25 * error(channels.slice(model, plan).eval(), model)


class Fickle(Copied):
    """A network that makes other calls once it has been called before."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Fickle.calls += 1
        return super().forward(x if Fickle.calls < 4 else x + 1)


def test_a_forward_that_changes_is_refused_and_no_thread_stays() -> None:
    model, channels = made(Fickle)
    Fickle.calls = 1
    plan, before = channels.uniform_plan(flops=0.3), threading.active_count()
    small = channels.slice(model, plan)
    with pytest.raises(ChannelError, match="other calls"):
        channels.reconstruct(model, small, plan, [IMAGES[:16], IMAGES[16:32]])
    assert threading.active_count() == before


def test_an_error_of_the_forward_is_raised() -> None:
    model, channels = made(Block)
    plan = channels.uniform_plan(flops=0.3)
    with pytest.raises(RuntimeError, match="channels"):
        channels.reconstruct(model, channels.slice(model, plan), plan, [IMAGES, torch.zeros(2, 5, 8, 8)])


def test_batches_may_be_of_any_form() -> None:
    class Pair(NamedTuple):
        images: Tensor
        labels: None = None

    model, channels = made(Block)
    plan = channels.uniform_plan(flops=0.3)
    for batch in (IMAGES, [IMAGES], Pair(IMAGES)):
        assert channels.reconstruct(model, channels.slice(model, plan), plan, [batch], images=32).images == 32
    by_name = [{"image": IMAGES}]
    found = channels.reconstruct(
        model, channels.slice(model, plan), plan, by_name, call=lambda network, batch: network(batch["image"])
    )
    assert found.images == len(IMAGES)


def test_no_images_are_refused() -> None:
    model, channels = made(Block)
    plan = channels.uniform_plan(flops=0.3)
    with pytest.raises(ChannelError, match="needs images"):
        channels.reconstruct(model, channels.slice(model, plan), plan, [])


CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 11)),
    "2d": (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (5, 4, 9, 8)),
    "3d": (nn.Conv3d(4, 6, 2, padding=1), (3, 4, 4, 5, 3)),
    "same": (nn.Conv2d(4, 6, 4, padding="same", dilation=2), (5, 4, 9, 8)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (5, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (5, 4, 9, 8)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_samples_of_a_convolution_give_its_outputs(kind: str) -> None:
    module, shape = CONVOLUTIONS[kind]
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    keys = ("stride", "padding", "dilation", "groups")
    called = {"weight": module.weight} | {key: getattr(module, key) for key in keys}
    layer = Layer.of(f"conv{len(shape) - 2}d", called)
    with torch.no_grad():
        output = module(given)
        positions = torch.arange(output[0, 0].numel())[::2]
        features, rows = layer.samples(given, positions)
        wanted = layer.rows(output, positions) - module.bias
    assert torch.allclose(rows, wanted, atol=1e-5)
    assert features.shape[1:] == (len(wanted), layer.features)


def test_samples_of_a_linear_layer_are_tokens() -> None:
    module = nn.Linear(4, 6)
    layer, given = Layer.of("linear", {"weight": module.weight}), torch.randn(3, 7, 4)
    positions = torch.tensor([1, 4])
    with torch.no_grad():
        features, rows = layer.samples(given, positions)
        assert torch.allclose(rows, (module(given) - module.bias)[:, positions].flatten(0, 1), atol=1e-5)
    assert features.shape == (1, 6, 4)
