"""The outputs that are inferred here are those that torch computes; where it complains, so do they."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jstc.channels.trace.ids import Call
from jstc.channels.trace.meta_shapes import infer

aten = torch.ops.aten
zeros = torch.zeros


def on_meta(x):
    if isinstance(x, torch.Tensor):
        return x.to("meta")
    return [on_meta(y) for y in x] if isinstance(x, list) else x


def inferred(func, *args, **kwargs):
    return infer(Call(func, tuple(map(on_meta, args)), {k: on_meta(v) for k, v in kwargs.items()}))


def agree(func, *args, **kwargs):
    """Is it inferred? Then as torch does: the same shape, type and memory order, or an error of both."""
    try:
        expected = func(*args, **kwargs)
    except (RuntimeError, IndexError, ValueError, NotImplementedError):
        try:
            assert inferred(func, *args, **kwargs) is None
        except RuntimeError:
            return True
        return False
    found = inferred(func, *args, **kwargs)
    if found is None:
        return False
    assert found.is_meta and (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return True


side = st.integers(1, 4)
sides = st.lists(side, min_size=1, max_size=4).map(tuple)
pair = st.lists(side, min_size=1, max_size=2)
places = st.integers(-4, 3)


# -- layers ----------------------------------------------------------------------------------------------


@given(st.integers(1, 3), side, side, pair, st.integers(0, 3), st.booleans(), st.data())
def test_convolutions(rank, groups, dilation, kernel, padding, bias, data):
    conv = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)[rank - 1]
    sizes, stride = (kernel * 3)[:rank], data.draw(st.lists(side, min_size=rank, max_size=rank))
    x, weight = zeros(2, 2 * groups, *(7, 9, 5)[:rank]), zeros(3 * groups, 2, *sizes)
    assert agree(conv, x, weight, zeros(3 * groups) if bias else None, stride, [padding], [dilation], groups)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "groups"),
    [
        ((1, 3, 8, 8), (4, 2, 1, 1), 4, 1),
        ((1, 4, 8, 8), (3, 2, 1, 1), 3, 2),
        ((1, 3, 8, 8), (4, 3, 1, 1), 5, 1),
        ((1, 3, 2, 8), (4, 3, 3, 1), 4, 1),
    ],
)
def test_convolutions_that_do_not_fit(x, weight, bias, groups):
    args = (zeros(x), zeros(weight), zeros(bias), [1], [0], [1], groups)
    with pytest.raises(RuntimeError):
        aten.conv2d.default(*args)
    with pytest.raises(RuntimeError, match=r"got input|does not fit the weight|larger than the input"):
        inferred(aten.conv2d.default, *args)


@given(st.integers(1, 3), side, side, side, st.integers(0, 2), side, st.integers(0, 2), st.booleans())
def test_transposed_convolutions(rank, groups, kernel, stride, padding, dilation, more, wrong):
    func = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)[rank - 1]
    x, weight = zeros(2, 2 * groups, *(5, 4, 3)[:rank]), zeros(2 * groups, 3, *[kernel] * rank)
    bias = zeros(3 * groups + wrong)
    agree(func, x, weight, bias, [stride], [padding], [more], groups, [dilation])


def test_transposed_convolutions_that_are_usual():
    x, weight = zeros(1, 8, 7, 7), zeros(8, 4, 2, 2)
    assert agree(aten.conv_transpose2d.input, x, weight, zeros(4), [2])
    assert agree(aten.conv_transpose2d.input, x, weight, None, [2])
    with pytest.raises(RuntimeError, match="got input"):
        inferred(aten.conv_transpose2d.input, zeros(1, 7, 7, 7), weight, None, [2])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 5, 5)])
def test_batch_norms(shape):
    x, stats = zeros(shape), [torch.ones(3) for _ in range(4)]
    norm = aten.batch_norm.default
    assert agree(norm, x, *stats, False, 0.1, 1e-5, True)
    assert agree(norm, x, None, None, *stats[2:], False, 0.1, 1e-5, True)
    assert inferred(norm, x, *stats, True, 0.1, 1e-5, True) is None
    for which in range(4):
        wrong = [torch.ones(4) if i == which else s for i, s in enumerate(stats)]
        with pytest.raises(RuntimeError, match="does not fit the input"):
            inferred(norm, x, *wrong, False, 0.1, 1e-5, True)


@given(sides, st.integers(1, 2), st.sampled_from([0, 1]), st.booleans())
def test_layer_norms(shape, over, wrong, affine):
    normal = [n + wrong for n in shape[-over:]]
    params = [zeros(normal)] * 2 if affine else [None] * 2
    assert agree(aten.layer_norm.default, zeros(shape), normal, *params)
    assert agree(aten.rms_norm.default, zeros(shape), normal, params[0])


@given(side, side, side, st.sampled_from([0, 0, 1]), st.booleans())
def test_group_norms(groups, width, space, wrong, affine):
    params = [zeros(groups * width + wrong)] * 2 if affine else [None] * 2
    assert agree(aten.group_norm.default, zeros(2, groups * width, space, 3), groups, *params)
    agree(aten.group_norm.default, zeros(2, groups * width + 1, space), groups, *params)


@given(pair, pair, st.integers(0, 2), pair, st.booleans())
def test_pools(kernel, stride, padding, dilation, ceil):
    x = zeros(2, 3, 11, 7)
    usual = padding <= min(kernel) // 2
    assert agree(aten.max_pool2d.default, x, kernel, stride, [padding], dilation, ceil) or not usual
    assert agree(aten.avg_pool2d.default, x, kernel, stride, [padding], ceil) or not usual
    assert agree(aten.max_pool2d.default, x, kernel) and agree(aten.avg_pool2d.default, x, kernel)


def test_pools_to_a_size():
    for size in ([1, 4], [7, 3], [2, 2]):
        assert agree(aten.adaptive_avg_pool2d.default, zeros(2, 3, 8, 9), size)
    found = inferred(aten.adaptive_avg_pool2d.default, zeros(2, 3, 8, 9), [None, 4])
    assert found.shape == (2, 3, 8, 4)


@given(st.floats(0.3, 3), st.floats(0.3, 3), st.integers(1, 9))
def test_resizing(up, down, size):
    x = zeros(2, 3, 7, 5)
    assert agree(aten.upsample_nearest2d.vec, x, None, [up, down])
    assert agree(aten.upsample_nearest2d.vec, x, [size, 4], None)
    assert agree(aten.upsample_bilinear2d.vec, x, None, False, [up, down])
    assert agree(aten.upsample_bilinear2d.vec, x, [size, 4], True, None)


@given(sides, st.sampled_from([0, 0, 1]), st.sampled_from([None, 4, 5]))
def test_linear_layers(shape, wrong, bias):
    args = (zeros(shape), zeros(4, shape[-1] + wrong), None if bias is None else zeros(bias))
    assert agree(aten.linear.default, *args)


@given(sides, sides, st.booleans())
def test_matrix_products(a, b, fit):
    if fit and len(b) > 1:
        b = (*b[:-2], a[-1], b[-1])
    assert agree(aten.matmul.default, zeros(a), zeros(b))


def test_products_of_plain_matrices():
    assert agree(aten.mm.default, zeros(2, 3), zeros(3, 4)) and agree(
        aten.mm.default, zeros(2, 3), zeros(2, 3)
    )
    assert agree(aten.bmm.default, zeros(2, 3, 4), zeros(2, 4, 5))


@given(sides, side, side, side, st.sampled_from([0, 0, 1]), st.sampled_from([None, "whole", "row", "wrong"]))
def test_attention(batch, n, m, d, wrong, masked):
    query, key, value = zeros(*batch, n, d), zeros(*batch, m, d + wrong), zeros(*batch, m, 5)
    mask = (
        None if masked is None else {"whole": zeros(n, m), "row": zeros(1, m), "wrong": zeros(9, 9)}[masked]
    )
    assert agree(aten.scaled_dot_product_attention.default, query, key, value, mask)


# -- everything else -------------------------------------------------------------------------------------


@given(sides, sides, st.sampled_from(["add", "sub", "mul", "div", "maximum", "pow", "eq", "lt"]))
def test_operations_on_two_tensors(a, b, name):
    packet = getattr(aten, name)
    func = getattr(packet, {"maximum": "default", "pow": "Tensor_Tensor"}.get(name, "Tensor"))
    assert agree(func, zeros(a), zeros(b))


@given(st.sampled_from([2, 2.5]), st.sampled_from([torch.int64, torch.int32, torch.bool, torch.float64]))
def test_operations_on_numbers_of_other_types(number, kind):
    x = zeros(2, 3).to(kind)
    for name in ("add", "mul", "sub", "div", "pow", "maximum", "ge", "clamp_min"):
        packet = getattr(aten, name)
        func = getattr(
            packet,
            {"pow": "Tensor_Scalar", "maximum": "default", "clamp_min": "default", "ge": "Scalar"}.get(
                name, "Tensor"
            ),
        )
        agree(func, x, zeros(3).to(kind) if name == "maximum" else number)
    assert agree(aten.add.Tensor, zeros(2, 3).long(), zeros(3).long())


@given(sides, st.sampled_from(["add_", "mul_"]), st.data())
def test_operations_in_place(shape, name, data):
    other = tuple(data.draw(st.sampled_from([1, n])) for n in shape[data.draw(st.integers(0, len(shape))) :])
    func = getattr(aten, name).Tensor
    kept = zeros(shape, device="meta")
    assert infer(Call(func, (kept, zeros(other, device="meta")), {})) is kept
    assert not agree(func, zeros(1, 2), zeros(3, 2))


UNARY = [
    *(
        "abs",
        "exp",
        "relu",
        "relu_",
        "sigmoid",
        "silu",
        "gelu",
        "hardswish",
        "hardtanh_",
        "log",
        "rsqrt",
        "neg",
    ),
    *("leaky_relu", "softplus", "erf", "tanh", "sqrt", "square", "log_sigmoid", "mish", "reciprocal"),
]


@given(sides, st.sampled_from(UNARY))
def test_operations_on_one_tensor(shape, name):
    assert agree(getattr(aten, name).default, torch.ones(shape))


@given(sides, st.permutations(range(4)), st.sampled_from(["relu", "clone", "add", "softmax", "group", "row"]))
def test_memory_order_is_kept(shape, order, kind):
    # A view that follows may need it.
    shape = (*shape, 2, 3, 5, 6)[:4]
    x = zeros(shape).permute(order)
    func, *args = {
        "relu": (aten.relu.default, x),
        "clone": (aten.clone.default, x),
        "add": (aten.add.Tensor, x, x),
        "row": (aten.mul.Tensor, torch.ones(x.shape[-1]), x),
        "softmax": (aten.softmax.int, x, -1),
        "group": (aten.clamp_min.default, x, 0),
    }[kind]
    expected = func(*args)
    found = inferred(func, *args)
    same = [d for d, n in enumerate(expected.shape) if n > 1]
    assert [found.stride(d) for d in same] == [expected.stride(d) for d in same]


def test_numbers_of_other_types_are_left_to_torch():
    assert inferred(aten.add.Tensor, zeros(2), zeros(2).double()) is None
    whole = torch.ones(2, dtype=torch.int64)
    assert inferred(aten.div.Tensor, whole, whole) is None and inferred(aten.sum.default, whole) is None
    assert inferred(aten.mul.Tensor, zeros(2), 1j) is None
    assert inferred(aten.add.out, zeros(2), zeros(2), out=zeros(2)) is None


@given(sides, st.lists(places, max_size=2), st.booleans())
def test_reductions(shape, dims, keep):
    x = zeros(shape)
    inside = all(-len(shape) <= d < len(shape) for d in dims) and len({d % len(shape) for d in dims}) == len(
        dims
    )
    for func in (aten.mean.dim, aten.sum.dim_IntList, aten.amax.default):
        if inside or func is not aten.mean.dim:
            assert agree(func, x, dims, keep) or not inside
    assert agree(aten.linalg_vector_norm.default, x, 2.0, dims or None, keep) or not inside
    assert agree(aten.mean.default, x) and agree(aten.sum.default, x)
    assert agree(aten.var.correction, x, dims or None, correction=0, keepdim=keep) or not inside


@given(sides, places, st.booleans())
def test_softmax(shape, dim, logarithm):
    func = aten.log_softmax.int if logarithm else aten.softmax.int
    assert agree(func, zeros(shape), dim) or not -len(shape) <= dim < len(shape)


@given(sides, st.lists(side, min_size=1, max_size=3), places, st.sampled_from([0, 0, 0, 1]))
def test_joined_tensors(shape, widths, dim, wrong):
    inside = -len(shape) <= dim < len(shape)
    at = dim % len(shape)
    tensors = [zeros(*shape[:at], n, *shape[at + 1 :]) for n in widths]
    tensors[0] = tensors[0] if not wrong else zeros(*tensors[0].shape[:-1], 7)
    assert agree(aten.cat.default, tensors, dim) or not inside
    agree(aten.stack.default, tensors, dim)
    assert agree(aten.stack.default, [zeros(shape)] * 3, dim) or not inside
    assert not agree(aten.cat.default, [zeros(0), zeros(2, 3)]) and not agree(aten.cat.default, [])


@given(sides, st.permutations(range(4)))
def test_copies_and_rolls(shape, order):
    shape = (*shape, 2, 1, 3, 2)[:4]
    x = zeros(shape).permute(order)
    assert agree(aten.clone.default, x) and agree(aten.zeros_like.default, x)
    assert agree(aten.zeros_like.default, x, dtype=torch.int64, pin_memory=False)
    assert inferred(aten.zeros_like.default, x, device=torch.device("cpu")) is None
    assert not agree(aten.clone.default, x, memory_format=torch.contiguous_format)
    assert agree(aten.roll.default, x, [1, 2], [0, -1]) and agree(aten.roll.default, x, [1])
    agree(aten.roll.default, x, [1, 2], [5, 1])


@given(st.lists(st.sampled_from([None, (2,), (3, 1), (1,)]), min_size=1, max_size=3), st.booleans())
def test_indexing(indices, wrong):
    given_ = [None if shape is None else zeros(shape, dtype=torch.int64) for shape in indices]
    func, x = aten.index.Tensor, zeros(2, 3, 4, 5)
    assert agree(func, x, [*given_, zeros(3 if wrong else 1, dtype=torch.int64)][:4])
    assert inferred(func, x, [torch.ones(2, dtype=torch.bool)]) is None


@given(sides, sides)
def test_masks(shape, mask):
    assert agree(aten.masked_fill.Scalar, zeros(shape), zeros(mask, dtype=torch.bool), 1.0)


@pytest.mark.parametrize(
    ("equation", "shapes", "known"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], True),
        ("b h i d, b h j d -> b h i j", [(2, 3, 4, 5), (2, 3, 6, 5)], True),
        ("ij->ji", [(2, 3)], True),
        ("bij,bjk->bik", [(2, 3, 4), (2, 3, 5)], False),
        ("...i,ij->...j", [(2, 3), (3, 4)], False),
        ("ii->i", [(3, 3)], False),
        ("ij,jk", [(2, 3), (3, 4)], False),
        ("ij,jk->ik", [(2, 1), (3, 4)], False),
    ],
)
def test_sums_of_products(equation, shapes, known):
    assert agree(aten.einsum.default, equation, [zeros(shape) for shape in shapes]) == known


@pytest.mark.parametrize(
    ("overload", "numbers", "known"),
    [
        ("default", (7,), True),
        ("default", (2.5,), True),
        ("start", (2, 9), True),
        ("start_step", (0, 10, 3), True),
        ("start_step", (9, 0, -2), True),
        ("start_step", (0, 1, 0.25), True),
        ("start", (3, 3), True),
        ("start", (5, 2), False),
    ],
)
def test_ranges(overload, numbers, known):
    func = getattr(aten.arange, overload)
    assert agree(func, *numbers, device=torch.device("meta")) == known
    if known:
        assert agree(func, *numbers, dtype=torch.float16, device=torch.device("meta"))
    assert infer(Call(func, numbers, {})) is None  # on the CPU, where there are values


def test_the_rest_is_left_to_torch():
    real, weight = zeros(1, 3, 4, 4), zeros(2, 3, 1, 1)
    assert infer(Call(aten.conv2d.default, (real, weight, None), {})) is None
    assert inferred(aten.conv2d.default, zeros(3, 4, 4), weight, None) is None
    assert inferred(aten.cumsum.default, real, 1) is None
    assert inferred(aten.max_pool2d.default, real, [2], [2], [2]) is None


ANALYSE = """
import sys, torch
from jstc import models
from jstc.channels import analyse
for name in sys.argv[1:]:
    spec = models.spec(name, num_classes=10, in_channels=3, height=224, width=224)
    analyse(models.build(spec, device="meta"), torch.zeros(1, 3, 224, 224))
print([name for name in ("sympy", "torch._dynamo", "torch._inductor") if name in sys.modules])
"""


def test_no_analysis_imports_a_compiler():
    names = ["densenet121", "convnext_tiny", "swin_t", "vit_b_16", "googlenet", "mnasnet0_5"]
    done = subprocess.run([sys.executable, "-c", ANALYSE, *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
