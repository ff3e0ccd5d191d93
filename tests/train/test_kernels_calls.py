"""Calls as they are recognised, and the same calls in other forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jstc.train.kernels import judge
from jstc.train.kernels.calls import Call, Form, call_of, run


def operands(call: Call, images: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
    source = torch.Generator().manual_seed(0)
    outs = call.weight[1] * call.groups if call.transposed else call.weight[0]
    x, weight, bias = (
        torch.randn(s, generator=source) for s in ((images, *call.input), call.weight, (outs,))
    )
    return x, weight, bias if call.bias else None


def recognised(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Any]:
    found = call_of(func, args, kwargs)
    assert found is not None
    return found


def conv(**changed: Any) -> Call:
    call: dict[str, Any] = {
        "name": "conv2d", "input": (8, 7, 7), "weight": (12, 8, 3, 3), "bias": True, "dtype": "float32",
        "channels_last": False, "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1),
        "output_padding": (0, 0), "groups": 1,
    }  # fmt: skip
    return Call(**call | changed)


CALLS = {
    "plain": conv(),
    "without bias": conv(bias=False),
    "strided": conv(stride=(2, 1), padding=(1, 0)),
    "dilated, grouped": conv(dilation=(2, 2), padding=(2, 2), groups=4, weight=(12, 2, 3, 3)),
    "depthwise": conv(groups=8, weight=(8, 1, 3, 3)),
    "transposed": conv(name="conv_transpose2d", weight=(8, 6, 3, 3), stride=(2, 2), output_padding=(1, 1)),
    "one dimension": conv(
        name="conv1d", input=(8, 9), weight=(4, 8, 3), stride=(1,), padding=(0,), dilation=(1,),
        output_padding=(0,),
    ),
    "linear": Call("linear", (8,), (5, 8), True, "float32"),
    "linear on tokens": Call("linear", (6, 8), (5, 8), False, "float32"),
}  # fmt: skip
FORMS = [Form("float32", channels_last=True), Form("float32", onednn=False), Form("float64", onednn=False)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_in_another_form_gives_what_autograd_gives(name: str, form: Form):
    call = CALLS[name]
    leaves = [t.requires_grad_() for t in operands(call) if t is not None]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    given = (*leaves, None)[:3]
    found, right = run(call, form, given), call.native((*doubles, None)[:3])
    gradient = torch.randn(right.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (
        torch.autograd.grad(y, x, gradient.to(y.dtype)) for y, x in ((found, leaves), (right, doubles))
    )
    assert torch._C._get_mkldnn_enabled()
    assert found.shape == right.shape == (3, *call.output)
    for got, want in zip((found, *ours), (right, *theirs), strict=True):
        assert got.dtype == torch.float32
        assert torch.allclose(got.double(), want, rtol=1e-4, atol=1e-4)


def test_gradients_that_nobody_needs_are_not_computed():
    call = CALLS["plain"]
    x, weight, bias = operands(call)
    run(call, FORMS[0], (x, weight.requires_grad_(), bias)).sum().backward()
    assert (x.grad, bias.grad) == (None, None)
    assert weight.grad is not None


def test_the_result_has_the_precision_and_layout_that_it_would_have_had():
    call = conv(dtype="bfloat16", channels_last=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(call, Form("float32", onednn=False), operands(call))
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", CALLS)
def test_sound_kernels_are_found_sound(name: str):
    assert judge.faults(CALLS[name], None, 5) == {}
    assert judge.faults(CALLS[name], FORMS[1], 5) == {}


def test_judging_leaves_the_random_state():
    before = torch.get_rng_state()
    judge.faults(CALLS["plain"], None, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_large_calls_are_judged_on_fewer_images():
    assert judge.num_images(CALLS["plain"], 64) == 64
    assert judge.num_images(CALLS["plain"], 1) == 1
    large = conv(input=(256, 64, 64), weight=(256, 256, 3, 3))
    assert judge.num_images(large, 64) == 2


def test_an_output_without_positions_is_torchs_to_refuse():
    assert judge.num_images(conv(input=(8, 2, 2), padding=(0, 0)), batch=2) == 2
    assert call_of(F.linear, (torch.ones(2, 4), torch.ones(0, 4)), {}) is None


def test_a_call_is_what_decides_its_kernel():
    x, weight = torch.randn(2, 8, 7, 7), torch.randn(12, 8, 3, 3)
    plain, _ = recognised(torch.conv2d, (x, weight, None, (1, 1), (1, 1), (1, 1), 1), {})
    assert plain == conv(bias=False)
    named, _ = recognised(F.conv2d, (x,), {"weight": weight, "padding": 1})
    assert named == plain
    laid, _ = recognised(
        torch.conv2d, (x.contiguous(memory_format=torch.channels_last), weight), {"padding": 1}
    )
    assert laid.channels_last
    with torch.autocast("cpu", torch.bfloat16):
        low, _ = recognised(torch.conv2d, (x, weight), {"padding": 1})
        assert recognised(torch.conv2d, (x.double(), weight.double()), {})[0].dtype == "float64"
    assert (low.dtype, plain.dtype) == ("bfloat16", "float32")
    assert len({plain.key, laid.key, low.key}) == 3
    linear, _ = recognised(F.linear, (torch.randn(4, 8), torch.randn(5, 8)), {})
    assert linear == Call("linear", (8,), (5, 8), False, "float32")


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 3, 3), (3, 2, 2)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layouts_are_told_apart_as_torch_does(shape: tuple[int, int, int], layout: torch.memory_format):
    x = torch.empty(2, *shape, memory_format=layout)
    weight = torch.empty(4, shape[0], 1, 1, memory_format=layout)
    found, _ = recognised(torch.conv2d, (x, weight), {})
    assert found.channels_last == (layout == torch.channels_last)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kernel", [3, 4])
def test_padding_by_name_becomes_one_by_numbers(kernel: int):
    x, weight = torch.randn(2, 3, 9, 9), torch.randn(4, 3, kernel, kernel)
    for padding in ("same", "valid"):
        call, given = recognised(torch.conv2d, (x, weight), {"padding": padding})
        right = torch.conv2d(x, weight, padding=padding)
        assert torch.allclose(run(call, FORMS[2], given), right, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (torch.relu, (torch.zeros(2, 3),)),
        (torch.conv2d, (torch.zeros(3, 8, 8), torch.zeros(4, 3, 3, 3))),
        (torch.conv2d, (torch.zeros(2, 3, 8, 8, device="meta"), torch.zeros(4, 3, 3, 3, device="meta"))),
        (F.linear, (torch.zeros(3), torch.zeros(4, 3))),
        (F.linear, (torch.zeros(1, 4096), torch.zeros(4096, 4096))),
    ],
)
def test_whatever_else_is_left_to_torch(function: Any, given: tuple[Tensor, ...]):
    assert call_of(function, given, {}) is None


def test_calls_have_words():
    assert str(conv(stride=(2, 1), groups=8, weight=(8, 1, 3, 3))) == (
        "3x3 convolution of 8 to 8 channels on 7x7 positions, stride 2x1, 8 groups"
    )
    assert str(CALLS["transposed"]) == (
        "transposed 3x3 convolution of 8 to 6 channels on 7x7 positions, stride 2"
    )
    assert str(CALLS["linear"]) == "linear layer of 8 to 5 features"
