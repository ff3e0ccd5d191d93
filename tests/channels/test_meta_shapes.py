"""The shapes that are inferred here are those that torch computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jstc.channels.labels import Call
from jstc.channels.meta_shapes import infer

aten = torch.ops.aten
conv2d, batch_norm, linear = aten.conv2d.default, aten.batch_norm.default, aten.linear.default
pool, max_pool = aten.adaptive_avg_pool2d.default, aten.max_pool2d.default


def inferred(func, *args):
    def moved(x):
        return x.to("meta") if isinstance(x, torch.Tensor) else x

    return infer(Call(func, tuple(map(moved, args)), {}))


side = st.integers(1, 4)
pair = st.lists(side, min_size=1, max_size=2)


@given(side, side, side, pair, pair, st.lists(st.integers(0, 3), min_size=1, max_size=2), st.booleans())
def test_convolutions(groups, height, width, stride, dilation, padding, bias):
    x = torch.zeros(2, 2 * groups, 7, 9)
    weight = torch.zeros(3 * groups, 2, height, width)
    args = (x, weight, torch.zeros(3 * groups) if bias else None, stride, padding, dilation, groups)
    try:
        expected = conv2d(*args)
    except RuntimeError:
        with pytest.raises(RuntimeError, match="larger than the input"):
            inferred(conv2d, *args)
        return
    found = inferred(conv2d, *args)
    assert found.shape == expected.shape and found.is_meta and found.dtype == expected.dtype


@pytest.mark.parametrize(
    ("x", "weight", "bias", "groups"),
    [
        ((1, 3, 8, 8), (4, 2, 1, 1), 4, 1),
        ((1, 4, 8, 8), (3, 2, 1, 1), 3, 2),
        ((1, 3, 8, 8), (4, 3, 1, 1), 5, 1),
    ],
)
def test_convolutions_that_do_not_fit(x, weight, bias, groups):
    args = (torch.zeros(x), torch.zeros(weight), torch.zeros(bias), [1], [0], [1], groups)
    for attempt in (conv2d, lambda *a: inferred(conv2d, *a)):
        with pytest.raises(RuntimeError):
            attempt(*args)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 5, 5)])
def test_batch_norms(shape):
    x, stats = torch.zeros(shape), [torch.ones(3) for _ in range(4)]
    assert inferred(batch_norm, x, *stats, False, 0.1, 1e-5, True).shape == x.shape
    assert inferred(batch_norm, x, None, None, *stats[2:], False, 0.1, 1e-5, True).shape == x.shape
    for which in range(4):
        wrong = [torch.ones(4) if i == which else s for i, s in enumerate(stats)]
        with pytest.raises(RuntimeError, match="does not fit the input"):
            inferred(batch_norm, x, *wrong, False, 0.1, 1e-5, True)


def test_adaptive_pools():
    assert inferred(pool, torch.zeros(2, 3, 8, 9), [1, 4]).shape == (2, 3, 1, 4)


@given(side, side, pair, st.sampled_from([0, 1]), pair)
def test_max_pools(height, width, stride, padding, dilation):
    x = torch.zeros(2, 3, 11, 12)
    args = (x, [height + 1, width + 1], stride, [padding], dilation)
    try:
        expected = max_pool(*args)
    except RuntimeError:
        with pytest.raises(RuntimeError, match="larger than the input"):
            inferred(max_pool, *args)
        return
    assert inferred(max_pool, *args).shape == expected.shape
    assert inferred(max_pool, x, [2]).shape == (2, 3, 5, 6)


def test_linear_layers():
    weight, bias = torch.zeros(4, 3), torch.zeros(4)
    for shape in ((3,), (2, 3), (2, 5, 3)):
        assert inferred(linear, torch.zeros(shape), weight, bias).shape == (*shape[:-1], 4)
    assert inferred(linear, torch.zeros(2, 5), weight, bias) is None  # for torch to complain
    assert inferred(linear, torch.zeros(2, 3), weight, torch.zeros(5)) is None


@pytest.mark.parametrize("shapes", [[(2, 3), (2, 3)], [(2, 1, 4), (3, 1)], [(2, 3), ()], [(1,), (2, 3)]])
def test_pointwise_operations(shapes):
    tensors = [torch.zeros(shape) for shape in shapes]
    found, expected = inferred(aten.mul.Tensor, *tensors), tensors[0] * tensors[1]
    assert found.shape == expected.shape and found.dtype == expected.dtype
    kept = torch.zeros(shapes[0], device="meta")
    if expected.shape == kept.shape:
        assert infer(Call(aten.add_.Tensor, (kept, tensors[1].to("meta")), {})) is kept
    else:
        assert infer(Call(aten.add_.Tensor, (kept, tensors[1].to("meta")), {})) is None


def test_pointwise_operations_that_do_not_fit_or_mix_types():
    assert inferred(aten.add.Tensor, torch.zeros(2), torch.zeros(3)) is None
    assert inferred(aten.add.Tensor, torch.zeros(2), torch.zeros(2).double()) is None
    assert (
        inferred(aten.div.Tensor, torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)) is None
    )


def test_the_rest_is_left_to_torch():
    real = torch.zeros(1, 3, 4, 4)
    assert infer(Call(conv2d, (real, torch.zeros(2, 3, 1, 1), None), {})) is None
    assert inferred(conv2d, torch.zeros(3, 4, 4), torch.zeros(2, 3, 1, 1), None) is None
    assert inferred(aten.cumsum.default, real, 1) is None
