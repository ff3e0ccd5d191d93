"""Rules for operations of the user's own, registered with torch.library."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import jstc
from jstc.errors import ChannelError, InputError


@torch.library.custom_op("jstc_custom::soft_threshold", mutates_args=())
def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """x [N, C, H, W], threshold [C]"""
    return x.sign() * F.relu(x.abs() - threshold[:, None, None])


@soft_threshold.register_fake
def _(x, threshold):
    if len(threshold) != x.shape[1]:
        raise RuntimeError("one threshold for each channel")
    return torch.empty_like(x)


@torch.library.custom_op("jstc_custom::halves", mutates_args=())
def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, 2 C, H, W] -> two of [N, C, H, W]"""
    return x[:, : x.shape[1] // 2].clone(), x[:, x.shape[1] // 2 :].clone()


@halves.register_fake
def _(x):
    half = x.new_empty(x.shape[0], x.shape[1] // 2, *x.shape[2:])
    return half, half.clone()


@jstc.rule("jstc_custom::soft_threshold")
def _(tracing, call):
    labels = tracing.labels(call["x"])
    tracing.tie(labels[1], tracing.labels(call["threshold"])[0])
    return labels


@jstc.rule("jstc_custom::halves")
def _(tracing, call):
    n, channels, *space = tracing.labels(call.first)
    half = len(channels) // 2
    tracing.tie(channels[:half], channels[half:])
    return [(n, channels[:half], *space), (n, channels[half:], *space)]


def conv(inside, outside):
    return nn.Conv2d(inside, outside, 3, padding=1)


def pooled(x):
    return x.mean((2, 3))


def test_an_operation_with_a_parameter(toy):
    net = toy(
        lambda net, x: pooled(net.b(soft_threshold(net.a(x), net.threshold))),
        a=conv(3, 8),
        b=conv(8, 10),
        threshold=nn.Parameter(torch.rand(8)),
    )
    assert net.widths == {"a": 8}
    assert net.channels.groups[0].layers == ("a", "threshold", "b")
    net.require_exact()


def test_an_operation_with_two_outputs(toy):
    def forward(net, x):
        left, right = halves(F.relu(net.a(x)))
        return pooled(net.b(left * right))

    net = toy(forward, a=conv(3, 16), b=conv(8, 10))
    assert net.widths == {"a": 8}  # two channels of `a` each
    net.require_exact()


def test_gradients_are_nothing_to_the_trace(toy):
    net = toy(
        lambda net, x: pooled(net.b(soft_threshold(net.a(x), net.a.bias.abs()))), a=conv(3, 8), b=conv(8, 10)
    )
    assert net.widths == {"a": 8}


def temporary(name, function):
    """An operation that does nothing, with a rule."""
    library = torch.library.Library("jstc_custom_more", "FRAGMENT")
    library.define(f"{name}(Tensor x) -> Tensor")
    library.impl(name, lambda x: x.clone(), "CompositeExplicitAutograd")
    jstc.rule(f"jstc_custom_more::{name}")(function)
    return library, getattr(torch.ops.jstc_custom_more, name)


def test_what_a_rule_may_say(toy):
    def forget(tracing, call):
        labels = tracing.labels(call.first)
        tracing.freeze(labels[1], "mine alone")
        return (labels[0], tracing.whole(call.out.shape[1]), *labels[2:])

    def mixes(tracing, call):
        labels = tracing.labels(call["x"])
        tracing.inexact(labels[1], "a norm of mine")
        tracing.count(labels, call["x"].shape, factor=3)
        return labels

    keep = [temporary("forget", forget), temporary("mixes", mixes)]
    layers = {"a": conv(3, 8), "b": conv(8, 6), "c": conv(6, 10)}
    without = toy(lambda net, x: pooled(net.c(net.b(keep[0][1](net.a(x))))), **layers)
    net = toy(lambda net, x: pooled(net.c(keep[1][1](net.b(keep[0][1](net.a(x)))))), **layers)
    assert net.widths == {"b": 6}
    assert net.reasons["a", 0] == "mine alone"
    assert net.channels.inexact == {"b": "a norm of mine"}
    assert net.channels.cost().flops - without.channels.cost().flops == 3 * 6 * 8 * 8


WRONG = {
    "short": lambda tracing, call: tracing.labels(call.first)[1:],
    "twice": lambda tracing, call: [tracing.labels(call.first)] * 2,
    "nothing": lambda tracing, call: None,
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_do_not_fit_are_refused(toy, name):
    _library, operation = temporary(name, WRONG[name])
    with pytest.raises(ChannelError, match=rf"rule of jstc_custom_more\.{name} must .* does not fit \[1, 8"):
        toy(lambda net, x: pooled(net.b(operation(net.a(x)))), a=conv(3, 8), b=conv(8, 10))


@pytest.mark.parametrize("name", ["conv2d", "mylib.myop", "mylib::my op", ""])
def test_names_of_another_form_are_refused(name):
    with pytest.raises(InputError, match="expected 'namespace::name'"):
        jstc.rule(name)


def test_a_name_is_needed():
    with pytest.raises(InputError, match="expected the name of an operation"):
        jstc.rule()
