"""Cut networks mended without training: layers fitted to what the uncut network gave."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import jstc
from jstc.channels import ChannelMap
from jstc.channels.reconstruction import reconstruct
from jstc.channels.reconstruction.layers import Layer
from jstc.channels.reconstruction.least_squares import (
    Equations,
    Fit,
    Samples,
    Sums,
    equations,
    fitted,
    refitted,
)
from jstc.channels.reconstruction.sites import find
from jstc.channels.reconstruction.walks import Walk, live_bytes, record
from jstc.channels.trace.ids import named_tensors
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
        return self.out(self.lstm(x[..., ::4, ::4].flatten(2).transpose(1, 2))[0][:, -1])


def made(network: type[nn.Module]) -> tuple[nn.Module, ChannelMap]:
    torch.manual_seed(0)
    model = network().eval()
    return model, jstc.analyse(model, IMAGES[:1])


def mended(
    model: nn.Module,
    channels: ChannelMap,
    plan: Plan,
    batches: Sequence[object] | None = None,
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
    monkeypatch.setattr("jstc.channels.reconstruction.walks._bounds", lambda *_: None)  # mends something, too
    model, channels = made(Sum)
    plan = channels.uniform_plan(flops=0.3)
    with_sums = error(mended(model, channels, plan)[1], model)
    monkeypatch.setattr("jstc.channels.reconstruction.sites._added", lambda *_, **__: None)
    assert with_sums < 0.98 * error(mended(model, channels, plan)[1], model)


class Cut(nn.Module):
    """Layers whose results activations of several kinds cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1, bias=False)
        self.norm, self.third = norm(12), nn.Conv2d(12, 12, 3, padding=1)
        self.relu, self.relu6, self.out = nn.ReLU(inplace=True), nn.ReLU6(), nn.Conv2d(12, 12, 1)
        nn.init.normal_(self.norm.bias, -1, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.second(torch.relu(self.first(x)))))
        return nn.functional.hardtanh(self.out(x + self.relu6(10 * self.third(x))), max_val=0.5)


class Bent(nn.Module):
    """A layer whose results below zero go down far more steeply than above, which nobody sees."""

    def __init__(self) -> None:
        super().__init__()
        self.bent, self.straight = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(3, 4, 1, bias=False)
        self.second, self.out = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 2, 1)
        eye = torch.eye(2)[:, :, None, None]
        with torch.no_grad():
            self.straight.weight.copy_(-torch.cat([self.bent.weight, self.bent.weight]))
            self.second.weight.copy_(torch.cat([-20 * eye, eye, eye], 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.cat([torch.relu(self.bent(x)), self.straight(x)], 1))
        return self.out(torch.relu(x))


def test_what_an_activation_cuts_off_is_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, channels = made(Bent)
    kept = {g.name: tuple(range(g.width)) for g in channels.groups}
    kept |= {"bent": (1,), "straight": (0, 1)}
    plan = Plan(kept, dict(channels.widths))
    small = channels.slice(model, plan)
    channels.reconstruct(model, small, plan, [IMAGES[:32]])
    monkeypatch.setattr("jstc.channels.reconstruction.walks._bounds", lambda *_: None)
    linear = channels.slice(model, plan)
    channels.reconstruct(model, linear, plan, [IMAGES[:32]])
    assert error(small, model) < 0.5 * error(linear, model)


def test_activations_are_known_by_their_bounds() -> None:
    model, _ = made(Cut)
    steps = record(model, lambda network: network(IMAGES[:2]))
    bounds = [step.bounds for step in steps if step.bounds is not None]
    assert bounds == [(0, math.inf), (0, math.inf), (0, 6), (-1, 0.5)]
    names = [name for name, _ in named_tensors(model)]
    sites, _ = find(steps, dict(named_tensors(model)), dict(named_tensors(model)), names)
    assert [site.weight for site in sites if site.bounds == (0, math.inf)] == [
        "first.weight",
        "second.weight",
    ]


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
    assert "lstm" in found.left_out


def test_fewer_images_where_the_memory_is_bounded() -> None:
    model, channels = made(Block)
    plan, batches = channels.uniform_plan(flops=0.3), [IMAGES[:16], IMAGES[16:32]]
    whole = channels.reconstruct(model, channels.slice(model, plan), plan, batches)
    few = channels.reconstruct(model, channels.slice(model, plan), plan, batches, memory=whole.memory // 2)
    assert whole.images == 32
    assert 8 <= few.images <= 16
    assert few.memory <= whole.memory // 2
    assert few.layers.keys() == whole.layers.keys()


def test_what_is_added_elsewhere_is_not_kept_longer_than_it_is_looked_at() -> None:
    model, _ = made(Block)
    steps = record(model, lambda network: network(IMAGES[:2]))
    added = next(n for n, step in enumerate(steps) if step.name == "add")
    branch, stream = max(steps[added].inputs), min(steps[added].inputs)
    live, kept = live_bytes(steps), live_bytes(steps, {stream: len(steps) - 1})
    assert kept[: added + 1] == live[: added + 1]
    assert kept[-1] == live[-1] + steps[stream].bytes
    walk = Walk(model, lambda network: network(IMAGES[:2]), stops=[branch], keep={stream: branch}, after=True)
    walk.advance()  # a norm, which is a stop that walks know of
    assert walk.kept.keys() == {stream}
    walk.let_go(branch - 1)
    assert walk.kept.keys() == {stream}
    walk.let_go(branch)
    assert not walk.kept
    walk.stop()


def parts_of(sizes: Sequence[int]) -> list[Tensor]:
    return list(IMAGES[: sum(sizes)].split(list(sizes)))


@pytest.mark.parametrize("network", [Block, Separable])
def test_the_same_whatever_batches_the_images_come_in(
    network: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some positions of each image only, so that it matters which.
    monkeypatch.setattr("jstc.channels.reconstruction.layers._FEWEST_SAMPLES", 500)
    model, channels = made(network)
    plan = channels.uniform_plan(flops=0.3)
    one, other = (mended(model, channels, plan, parts_of(s))[1].state_dict() for s in ([32], [5, 20, 7]))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_few_samples_are_fitted_as_their_sums_are(constant: bool, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Layer(2, torch.ones(6, 8 // groups, 3, 3), (1, 1), (1, 1), (1, 1), groups)
    held = Samples(layer), Samples(layer)
    sums = Sums(layer), Sums(layer)
    weights = torch.randn(groups, layer.features, 6 // groups, generator=generator)
    draws = []
    for at in (0, 0, 1):  # two batches to fit on, and one that is held out
        features = torch.randn(groups, 20, layer.features, generator=generator) + 0.5
        missing = torch.bmm(features, weights).transpose(0, 1).flatten(1) + 3
        draws.append((at, features, missing + torch.randn(20, 6, generator=generator)))

    def fits(kind: tuple[Samples, Samples] | tuple[Sums, Sums]) -> Fit:
        given = {"constant": constant, "importance": torch.ones(6, dtype=torch.float64)}
        for at, features, missing in draws:
            kind[at].add(features, missing, missing + 1, missing)
        fit = fitted(*kind, **given)
        assert fit is not None
        for part in kind:
            part.clear()
        for at, features, missing in draws:
            kind[at].add(features, 0.5 * missing, missing + 1, missing, again=True)
        return refitted(fit, *kind, **given)

    one, other = fits(held), fits(sums)
    torch.testing.assert_close(one.change, other.change, rtol=1e-2, atol=1e-3)
    assert (one.before, one.after) == pytest.approx((other.before, other.after), rel=1e-4)
    assert bool((one.change[:, -1] == 0).all()) is not constant


def test_a_network_is_mended_alike_from_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, channels = made(Block)
    plan = channels.uniform_plan(flops=0.3)
    used: list[type] = []

    def seen(*given: Any, **more: Any) -> tuple[Equations, Equations]:
        found = equations(*given, **more)
        used.append(type(found[0]))
        return found

    monkeypatch.setattr(reconstruct, "equations", seen)
    monkeypatch.setattr("jstc.channels.reconstruction.layers._SAMPLES_PER_FEATURE", 0.5)
    monkeypatch.setattr("jstc.channels.reconstruction.layers._FEWEST_SAMPLES", 1)
    few = mended(model, channels, plan)[1].state_dict()
    assert {Samples, Sums} == set(used)
    # Processes add sums up, however few samples they have.
    small = channels.slice(model, plan)
    channels.reconstruct(model, small, plan, [IMAGES[:32]], add_up=lambda tensors: None)
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, few[name], rtol=1e-3, atol=1e-3)


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
    # As one process does with all of the images.
    alone = mended(model, channels, plan, [IMAGES[:16], IMAGES[16:32]])[1].state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)


class Fickle(Copied):
    """A network that makes other calls once it has been called before."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Fickle.calls += 1
        return super().forward(x if Fickle.calls < 5 else x + 1)


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


class Attention(nn.Module):
    """Encoder layers of torch, whose attention has its projections in one weight, over tokens of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, 4)
        self.first, self.second = (
            nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.out(self.second(self.first(x)).mean(1))


def test_projections_of_attention_are_fitted() -> None:
    model, channels = made(Attention)
    plan = channels.uniform_plan(flops=0.5)
    before, kind = copy.deepcopy(model.state_dict()), type(model.first.self_attn)
    cut, small = channels.slice(model, plan), channels.slice(model, plan)
    found = channels.reconstruct(model, small, plan, [IMAGES])
    assert {"second.self_attn.in_proj", "second.self_attn.out_proj"} <= found.layers.keys()
    assert error(small.eval(), model) < 0.7 * error(cut.eval(), model)
    assert not found.left_out
    # The whole network goes with forwards of its own again.
    assert type(model.first.self_attn) is kind
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Up(nn.Module):
    """Transposed convolutions, a depthwise one among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 12, 3, padding=1), nn.ConvTranspose2d(12, 10, 3, 2, 1, 1)
        self.depth, self.out = nn.ConvTranspose2d(10, 10, 2, groups=10), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.depth(torch.relu(self.up(torch.relu(self.first(x)))))))


def test_transposed_convolutions_are_fitted() -> None:
    model, channels = made(Up)
    plan = channels.uniform_plan(flops=0.4)
    cut, small = channels.slice(model, plan), channels.slice(model, plan)
    found = channels.reconstruct(model, small, plan, [IMAGES[:32]])
    assert {"up", "out"} <= found.layers.keys()
    assert error(small, model) < 0.5 * error(cut, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_sums_are_exact_whatever_the_network_is_in(dtype: torch.dtype) -> None:
    model, channels = made(Copied)
    kept = {g.name: tuple(range(g.width)) for g in channels.groups} | {"first": (0, 1, 2, 3)}
    plan = Plan(kept, dict(channels.widths))
    exact = channels.slice(model, plan)
    channels.reconstruct(model, exact, plan, [IMAGES])
    small = channels.slice(model.to(dtype), plan)
    with torch.autocast("cpu", torch.bfloat16):  # as somebody may have it who trains
        channels.reconstruct(model, small, plan, [IMAGES.to(dtype)])
    found, wanted = small.second.weight, exact.second.weight
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0.01)


CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 11)),
    "2d": (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (5, 4, 9, 8)),
    "3d": (nn.Conv3d(4, 6, 2, padding=1), (3, 4, 4, 5, 3)),
    "same": (nn.Conv2d(4, 6, 4, padding="same", dilation=2), (5, 4, 9, 8)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (5, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (5, 4, 9, 8)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, output_padding=1, dilation=2), (5, 4, 5, 6)),
    "transposed groups": (nn.ConvTranspose1d(4, 6, 3, groups=2), (5, 4, 9)),
    "transposed depthwise": (nn.ConvTranspose2d(4, 8, 2, 2, groups=4), (5, 4, 5, 6)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_samples_of_a_convolution_give_its_outputs(kind: str) -> None:
    module, shape = CONVOLUTIONS[kind]
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    keys = ("stride", "padding", "dilation", "groups")
    called = {"weight": module.weight} | {key: getattr(module, key) for key in keys}
    name = f"conv{'_transpose' * ('transposed' in kind)}{len(shape) - 2}d"
    layer = Layer.of(name, called)
    with torch.no_grad():
        output = module(given)
        numbers = torch.arange(len(given)) + 3
        positions = layer.positions(output.shape, 10_000, numbers, seed=0)  # other ones for each image
        assert not torch.equal(positions[0], positions[1])
        features, rows = layer.samples(given, positions, output.shape)
        wanted = layer.rows(output, positions) - module.bias
    assert torch.allclose(rows, wanted, atol=1e-5)
    assert features.shape[1:] == (len(wanted), layer.features)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_changed_weight_makes_what_the_features_say(kind: str) -> None:
    module, shape = CONVOLUTIONS[kind]
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    keys = ("stride", "padding", "dilation", "groups")
    called = {"weight": module.weight.detach()} | {key: getattr(module, key) for key in keys}
    name = f"conv{'_transpose' * ('transposed' in kind)}{len(shape) - 2}d"
    layer = Layer.of(name, called)
    with torch.no_grad():
        output = module(given)
        positions = layer.positions(output.shape, 10_000, torch.arange(len(given)), seed=0)
        features, rows = layer.samples(given, positions, output.shape)
        change = torch.randn(len(features), layer.features, layer.out // len(features), dtype=torch.float64)
        made = torch.bmm(features.double(), change).transpose(0, 1).flatten(1)
        changed = Layer.of(name, called | {"weight": layer.changed(change)})
        assert torch.allclose(
            changed.samples(given, positions, output.shape)[1], (rows + made).float(), atol=1e-4
        )


def test_samples_of_a_linear_layer_are_tokens() -> None:
    module = nn.Linear(4, 6)
    layer, given = Layer.of("linear", {"weight": module.weight}), torch.randn(3, 7, 4)
    positions = torch.tensor([[1, 4], [0, 4], [6, 2]])
    with torch.no_grad():
        output = module(given)
        features, rows = layer.samples(given, positions, output.shape)
        wanted = torch.cat([output[n, at] for n, at in enumerate(positions)]) - module.bias
        assert torch.allclose(rows, wanted, atol=1e-5)
    assert features.shape == (1, 6, 4)


def test_every_place_is_looked_at_equally_often() -> None:
    layer = Layer.of("conv2d", {"weight": torch.zeros(4, 2, 3, 3)})
    positions = layer.positions((1, 4, 100, 100), 2**14 // 4, torch.arange(2500), seed=0)
    assert positions.shape == (2500, 4)
    assert torch.equal(positions.flatten().bincount(), torch.ones(10_000, dtype=torch.int64))


class Listed(nn.Module):
    """Takes a list of images, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Copied()

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        assert all(image.shape == (3, 8, 8) for image in images)
        found: Tensor = self.inner(torch.stack(list(images)))
        return found


def test_lists_of_images_beside_targets_are_cut_by_examples() -> None:
    torch.manual_seed(1)
    model = Listed().eval()
    channels = jstc.analyse(model, (list(IMAGES[:1]),))
    plan = channels.uniform_plan(flops=0.6)
    targets = [{"boxes": torch.zeros(2, 4)} for _ in IMAGES[:20]]
    small, expected = channels.slice(model, plan), channels.slice(model, plan)
    listed = [(tuple(IMAGES[k : k + 10]), tuple(targets[k : k + 10])) for k in (0, 10)]
    stacked = [IMAGES[:10], IMAGES[10:20]]
    call = lambda network, batch: network(batch[0])  # noqa: E731
    assert channels.reconstruct(model, small, plan, listed, images=15, call=call).images == 15
    channels.reconstruct(
        model, expected, plan, stacked, images=15, call=lambda network, batch: network(batch)
    )
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name])
    assert not torch.equal(small.inner.second.weight, channels.slice(model, plan).inner.second.weight)
