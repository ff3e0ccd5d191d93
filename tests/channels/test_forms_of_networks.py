"""Networks of unusual form: each is cut and computes what the masked one does, or is refused in words."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from jstc.channels import analyse
from jstc.channels.trace.ids import named_tensors
from jstc.errors import ChannelError


def conv(inside: int, outside: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def layers(**more: Any) -> dict[str, Any]:
    """`a`: 3 to 8, `norm`, `b`: 8 to 6, `out`: 6 to 10."""
    return {"a": conv(3, 8), "norm": nn.BatchNorm2d(8), "b": conv(8, 6), "out": nn.Linear(6, 10)} | more


def plain(net, x):
    return net.out(pooled(F.relu(net.b(F.relu(net.norm(net.a(x)))))))


# -- inputs and outputs -------------------------------------------------------------------------------------

OUTPUTS = {
    "tuple": lambda net, x: (net.a(x), net.out(pooled(net.b(net.norm(net.a(x)))))),
    "dictionary": lambda net, x: {"out": net.out(pooled(net.b(net.norm(net.a(x))))), "low": pooled(net.a(x))},
    "nested": lambda net, x: [net.out(pooled(net.b(net.a(x)))), {"all": (net.norm(net.a(x)), None, "text")}],
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_every_output_of_a_structure_stays_whole(toy, form):
    net = toy(OUTPUTS[form], **layers())
    assert net.widths == {"b": 6}
    assert net.reasons["a", 0] == "network output"
    net.require_exact()


@dataclass(slots=True)
class Answer:
    scores: Tensor
    low: Any = None


OBJECTS = {
    "dataclass": Answer,
    "attributes": lambda scores, low: SimpleNamespace(scores=scores, more=[low]),
    "objects in a dictionary": lambda scores, low: {"a": Answer(scores), "b": SimpleNamespace(low=low)},
    "an object that holds itself": lambda scores, low: circular(Answer([scores, low])),
}


def circular(answer):
    answer.low = answer
    return answer


@pytest.mark.parametrize("form", OBJECTS)
def test_outputs_in_objects_stay_whole_as_well(toy, form):
    def forward(net, x):
        return OBJECTS[form](net.out(pooled(net.b(net.norm(net.a(x))))), pooled(net.a(x)))

    net = toy(forward, **layers())
    assert net.widths == {"b": 6}
    assert net.reasons["a", 0] == net.reasons["out", 0] == "network output"


IMAGE = torch.randn(2, 3, 8, 8, dtype=torch.float64)
INPUTS = {
    "two images": ((IMAGE, IMAGE), lambda net, x, y: plain(net, x + y)),
    "a mask [N, H, W]": (
        (IMAGE, IMAGE[:, 0] > 0),
        lambda net, x, m: plain(net, x.masked_fill(m[:, None], 0)),
    ),
    "a mask inside": (
        (IMAGE, (IMAGE[:, :1] > 0).double()),
        lambda net, x, m: net.out(pooled(net.b(net.norm(net.a(x)) * m))),
    ),
    "a vector": (
        (IMAGE, IMAGE[:, :, 0, 0]),
        lambda net, x, v: net.out(pooled(net.b(net.norm(net.a(x))) + net.embed(v)[:, :, None, None])),
    ),
    "numbers of a class": (
        (IMAGE, torch.tensor([1, 3])),
        lambda net, x, i: net.out(pooled(net.b(net.norm(net.a(x)))) + net.table(i)),
    ),
}


@pytest.mark.parametrize("form", INPUTS)
def test_several_inputs(toy, form):
    inputs, function = INPUTS[form]
    extra = {"a vector": {"embed": nn.Linear(3, 6)}, "numbers of a class": {"table": nn.Embedding(5, 6)}}
    net = toy(function, inputs=inputs, **layers(**extra.get(form, {})))
    assert net.widths == {"a": 8, "b": 6}
    net.require_exact()


@pytest.mark.parametrize("given", [lambda x: ([x, x],), lambda x: ({"left": x, "right": x},)])
def test_inputs_in_structures(given):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = conv(3, 8), nn.Linear(8, 10)

        def forward(self, images):
            both = list(images.values()) if isinstance(images, dict) else images
            return self.out(pooled(F.relu(self.a(both[0] + both[1]))))

    model = Net()
    channels = analyse(model, given(torch.randn(1, 3, 8, 8)))
    assert channels.widths == {"a": 8}
    small = channels.slice(model, channels.uniform_plan(flops=0.5))
    assert small(*given(torch.randn(2, 3, 8, 8))).shape == (2, 10)


# -- python around the tensors ------------------------------------------------------------------------------


def counting(net, x):
    net.calls = getattr(net, "calls", 0) + 1
    return plain(net, x)


def by_training(net, x):
    x = net.norm(net.a(x))
    x = F.dropout(x, 0.5, training=True) if net.training else x
    return net.out(pooled(net.b(x)))


def in_place(net, x):
    x = F.relu_(net.norm(net.a(x)))
    x += 1
    x.mul_(0.5).clamp_(max=3)
    y = net.b(x).clone()
    y[:, :, 0] = 0.0
    return net.out(pooled(y))


def made_up(net, x):
    x = net.norm(net.a(x))
    x = x + torch.zeros(1, x.shape[1], 1, 1, dtype=x.dtype, device=x.device)
    mask = torch.ones_like(x[:1]) * torch.arange(x.shape[3], dtype=x.dtype, device=x.device)
    return net.out(pooled(net.b(x * mask + torch.full_like(x, 0.1))))


FORWARDS = {
    "its own state": counting,
    "the training flag": by_training,
    "shapes": lambda net, x: plain(net, F.avg_pool2d(x, 2) if x.shape[2] > 4 else x),
    "its own flag": lambda net, x: plain(net, x) if net.flag else net.out(x),
    "in place": in_place,
    "a buffer": lambda net, x: net.out(pooled(net.b((net.norm(net.a(x)) - net.mean) / net.deviation))),
    "called twice": lambda net, x: net.out(pooled(net.b(net.norm(net.a(x))) + net.b(net.norm(net.a(x * 2))))),
    "numpy-like shapes": lambda net, x: net.out(net.b(net.norm(net.a(x))).view(*x.shape[:1], -1, 64).mean(2)),
    "a comprehension": lambda net, x: net.out(pooled(sum(net.b(net.norm(net.a(y))) for y in (x, x + 1)))),
    "no_grad": torch.no_grad()(plain),
    "autocast off": torch.autocast("cpu", enabled=False)(plain),
}


@pytest.mark.parametrize("form", FORWARDS)
def test_what_a_forward_may_do(toy, form):
    net = toy(FORWARDS[form], **layers(flag=True, mean=0.1, deviation=1.5))
    assert net.widths == {"a": 8, "b": 6}
    net.require_exact()


def test_tensors_made_by_the_forward_follow_a_cut(toy):
    net = toy(made_up, **layers())
    assert net.widths == {"a": 8, "b": 6}
    net.require_exact()


def test_buffers_of_a_width_are_cut_with_it(toy):
    class Whitening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.randn(8, 1, 1))
            self.register_buffer("scale", torch.rand(1, 8, 1, 1), persistent=False)

        def forward(self, x):
            return (x - self.mean) * self.scale

    net = toy(lambda net, x: net.out(pooled(net.b(net.whitening(net.a(x))))), **layers(whitening=Whitening()))
    assert net.widths == {"a": 8, "b": 6}
    net.require_exact()
    small = net.cut(net.plan(0))
    assert small.whitening.mean.shape[0] == small.whitening.scale.shape[1] == small.a.out_channels


def test_values_decide_on_the_cpu(toy):
    def forward(net, x):
        x = net.norm(net.a(x))
        while float(x.abs().mean()) > 0.5:
            x = x / 2
        return net.out(pooled(net.b(x.relu())))

    net = toy(forward, **layers())
    assert net.widths == {"a": 8, "b": 6}


# -- containers and sharing ---------------------------------------------------------------------------------


class Lists(nn.Module):
    """Parameters in lists and dictionaries, a list of layers by number, a layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6))
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(6, 1, 1))])
        self.shift = nn.ParameterDict({"a": nn.Parameter(torch.rand(8, 1, 1))})
        self.idle = nn.Linear(7, 9)
        self.out = nn.Linear(6, 10)

    def forward(self, x):
        x = self.stem[:3](x) * self.scales[0] + self.shift["a"]
        return self.out(pooled(self.stem[-1](x) * self.scales[1]))


def test_containers_of_parameters_and_layers(apart):
    model = Lists().double().eval()
    channels = analyse(model, IMAGE[:1])
    assert sorted(channels.widths.values()) == [6, 8]
    plan = channels.random_plan(flops=0.5, seed=0)
    small, masked = channels.slice(model, plan), copy.deepcopy(model)
    channels.mask(masked, plan)
    with torch.inference_mode():
        assert apart(small(IMAGE), masked(IMAGE)) < 1e-10
    assert small.scales[0].shape[0] == small.shift["a"].shape[0] == small.stem[0].out_channels
    assert small.idle.weight.shape == (9, 7)


def test_an_unused_layer_is_named():
    channels = analyse(Lists(), torch.randn(1, 3, 8, 8))
    assert {
        (f.layer, f.dim, f.channels) for f in channels.frozen if f.reason == "not used by the forward"
    } == {
        ("idle", 0, 9),
        ("idle", 1, 7),
    }


def test_one_module_under_two_names(toy):
    shared = conv(8, 8)
    net = toy(
        lambda net, x: net.out(pooled(net.second(F.relu(net.first(F.relu(net.a(x))))))),
        **layers(first=shared, second=shared, out=nn.Linear(8, 10)),
    )
    assert net.widths == {"a": 8}
    net.require_exact()
    small = net.cut(net.plan(1))
    assert small.first is small.second


def test_tied_weights_stay_tied(toy):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(12, 6, bias=False), nn.Linear(12, 6, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.encode(x) + self.decode(x.flip(2))

    net = toy(
        lambda net, x: net.out(net.tied(net.tokens(x).flatten(2).mT).mean(1)),
        tokens=conv(3, 12),
        tied=Tied(),
        out=nn.Linear(6, 10),
    )
    small = net.cut(net.plan(0))
    assert small.tied.encode.weight is small.tied.decode.weight


def test_hooks_that_work_on_the_output(toy):
    net = toy(lambda net, x: net.out(pooled(net.b(net.norm(net.a(x))))), **layers())
    model = copy.deepcopy(net.model)
    model.a.register_forward_hook(lambda module, args, out: F.relu(out) * 2)
    model.b.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    channels = analyse(model, IMAGE[:1])
    assert channels.widths == {"a": 8, "b": 6}
    plan = channels.random_plan(flops=0.5, seed=0)
    masked = copy.deepcopy(model)
    channels.mask(masked, plan)
    assert torch.allclose(channels.slice(model, plan)(IMAGE), masked(IMAGE))


# -- parametrizations ---------------------------------------------------------------------------------------

PARAMETRIZED = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("form", PARAMETRIZED)
def test_parametrized_layers_are_cut_rightly_or_not_at_all(toy, form):
    net = toy(plain, **layers(b=PARAMETRIZED[form](conv(8, 6))))
    assert bool(net.widths) == (form != "orthogonal")  # a matrix exponential mixes all channels
    assert all(net.reasons.values())
    for seed in range(3):
        plan = net.plan(seed)
        small = net.channels.slice(net.model, plan)
        assert net(small).shape == (2, 10)
        masked = copy.deepcopy(net.model)
        net.channels.mask(masked, plan)
        whole = set(net.channels.inexact)
        if not whole & {name for name, kept in plan.kept.items() if len(kept) < net.widths[name]}:
            assert torch.allclose(net(small), net(masked))


# -- kinds of tensors ---------------------------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name, layer in layers().items():
            setattr(self, name, layer)

    def forward(self, x):
        return plain(self, x)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_any_kind_of_number(kind):
    model = Plain().to(kind).eval()
    channels = analyse(model, torch.randn(1, 3, 8, 8, dtype=kind))
    small = channels.slice(model, channels.uniform_plan(flops=0.5))
    assert channels.widths == {"a": 8, "b": 6}
    assert {t.dtype for t in small.parameters()} == {kind}
    assert small(torch.randn(2, 3, 8, 8, dtype=kind)).dtype == kind


def test_channels_last_stays_channels_last():
    model = Plain().eval().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    channels = analyse(model, image[:1])
    small = channels.slice(model, channels.uniform_plan(flops=0.5))
    assert small(image).shape == (2, 10)
    assert small.b.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_without_memory_is_analysed_and_sliced():
    with torch.device("meta"):
        model = Plain()
    channels = analyse(model, torch.zeros(1, 3, 8, 8, device="meta"))
    small = channels.slice(model, channels.uniform_plan(flops=0.5))
    assert {t.device.type for _, t in named_tensors(small)} == {"meta"}
    assert small(torch.zeros(2, 3, 8, 8, device="meta")).shape == (2, 10)


# -- what cannot be analysed --------------------------------------------------------------------------------


def test_a_lazy_layer_is_refused_until_it_has_a_shape():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.LazyConv2d(4, 3))
    with pytest.raises(ChannelError, match="lazy"):
        analyse(model, torch.randn(1, 3, 8, 8))
    model(torch.randn(1, 3, 8, 8))
    assert analyse(model, torch.randn(1, 3, 8, 8)).widths == {"0": 8}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_network_is_refused():
    scripted = torch.jit.script(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)))
    with pytest.raises(ChannelError, match=r"torch\.jit"):
        analyse(scripted, torch.randn(1, 3, 8, 8))


def test_a_compiled_network_is_refused():
    OptimizedModule = type("OptimizedModule", (nn.Sequential,), {})  # noqa: N806  torch's own takes seconds
    with pytest.raises(ChannelError, match=r"'1' was compiled by torch\.compile"):
        analyse(nn.Sequential(conv(3, 8), OptimizedModule(conv(8, 4))), torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("wrapper", ["DataParallel", "DistributedDataParallel"])
def test_a_distributed_network_is_refused(wrapper):
    of_its_name = type(wrapper, (nn.Sequential,), {}) if wrapper != "DataParallel" else nn.DataParallel
    with pytest.raises(ChannelError, match=rf"the network was wrapped by {wrapper}: give its \.module"):
        analyse(of_its_name(conv(3, 8)), torch.randn(1, 3, 8, 8))


def _kept_by_a_hook(layer):
    parameter = nn.Parameter(layer.weight.detach().clone())
    del layer.weight
    layer.register_parameter("scaled", parameter)
    layer.register_forward_pre_hook(lambda it, _: setattr(it, "weight", it.scaled * 2))


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize(
    ("change", "name", "way"),
    [
        (
            nn.utils.weight_norm,
            "weight",
            r"parametrizations\.weight_norm.*remove_weight_norm\(layer, 'weight'\)",
        ),
        (nn.utils.spectral_norm, "weight", r"parametrizations\.spectral_norm.*remove_spectral_norm\(layer"),
        (
            lambda it: prune.ln_structured(it, "weight", 0.3, n=2, dim=0),
            "weight",
            r"prune\.remove\(layer, 'weight'",
        ),
        (lambda it: prune.random_unstructured(it, "bias", 2), "bias", r"prune\.remove\(layer, 'bias'\)"),
    ],
)
def test_weights_that_a_hook_computes_are_refused_with_the_way(change, name, way, run):
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 4))
    change(model[2])
    if run:
        model(torch.randn(1, 3, 8, 8))
    with pytest.raises(ChannelError, match=rf"'2' (computes|masks) its {name} in a hook, .*; .*{way}"):
        analyse(model, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("run", [False, True])
def test_a_hook_of_one_s_own_is_told_by_what_it_leaves(run):
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4))
    _kept_by_a_hook(model[0])
    if run:
        model(torch.randn(1, 3, 8, 8))
    with pytest.raises(
        ChannelError, match=r"'0' keeps a tensor that was computed .*, 'weight'; .*parametrize"
    ):
        analyse(model, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("form", ["weight_norm", "spectral_norm"])
def test_the_way_out_of_such_hooks_is_one(form):
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 4))
    getattr(nn.utils.parametrizations, form)(model[2])
    assert analyse(model, torch.randn(1, 3, 8, 8)).widths["2.parametrizations.weight"] == 6


@pytest.mark.slow
def test_compiled_functions_are_run_as_they_are_written():
    class Compiled(nn.Sequential):
        @torch.compile
        def forward(self, x):
            return super().forward(x)

    network = Compiled(conv(3, 8), nn.ReLU(), conv(8, 4))
    channels = analyse(network, torch.randn(1, 3, 8, 8))
    assert channels.widths == {"0": 8}
    with torch.compiler.set_stance("force_eager"):
        assert (
            channels.slice(network, channels.uniform_plan(flops=0.5))(torch.randn(2, 3, 8, 8)).shape[1] == 4
        )


def test_a_really_compiled_network_is_refused():
    compiled = torch.compile(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)))
    with pytest.raises(ChannelError, match=r"torch\.compile"):
        analyse(compiled, torch.randn(1, 3, 8, 8))
