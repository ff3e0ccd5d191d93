"""The table of rules by operation name, and its small public face for operations of the user's own.

Each dimension of each tensor has a *label*: an array with one channel id per position, or None for a
dimension of a tensor that the forward made up itself and that fits anything. A rule reads the labels of the
operation's inputs, says which must be equal and which can't be cut, and returns those of its outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from jstc.channels.trace.ids import FIXED, Call, Ids, Labels, operation_name, tensors_in
from jstc.channels.trace.state import TraceState
from jstc.errors import ChannelError, InputError

__all__ = ["Tracing", "custom_rule", "find", "rule"]

Rule = Callable[[TraceState, Call], Any]
_rules: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations given as `conv2d` (ATen) or `namespace::name`, all overloads."""

    def register(function: Rule) -> Rule:
        for name in names:
            _rules[name if "::" in name else f"aten::{name}"] = function
        return function

    return register


def find(func: Any) -> Rule | None:
    """The rule of an operation; its in-place form shares it, point-wise operations share one."""
    name: str = func._schema.name
    found = _rules.get(name) or _rules.get(name.removesuffix("_"))
    if found is None and torch.Tag.pointwise in func.tags:
        return _rules["aten::pointwise"]
    return found


# -- rules of the user's own: `jstc.rule` ---------------------------------------------------------------


class Tracing:
    """Questions that a rule may ask about channels, and statements that it may make."""

    def __init__(self, trace: TraceState) -> None:
        self._trace = trace

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of a tensor, one per dimension."""
        return self._trace.labels(tensor)

    def whole(self, size: int) -> Ids:
        """The label of a dimension that is never cut, such as space."""
        return np.full(size, FIXED)

    def tie(self, a: Ids | None, b: Ids | None) -> None:
        """The channels `a` and `b` are kept or removed together, position by position."""
        self._trace.tie(a, b)

    def freeze(self, channels: Ids | None, reason: str) -> None:
        """The channels can't be cut; `reason` is what users read."""
        self._trace.freeze(channels, reason)

    def inexact(self, channels: Ids | None, reason: str) -> None:
        """The channels can be cut, but that differs from zeroing their weights: a norm over them, say."""
        self._trace.inexact(channels, reason)

    def count(self, labels: Sequence[Ids | None], shape: Sequence[int], *, factor: int = 1) -> None:
        """FLOPs: `factor` times the product of `shape`, whose dimensions have these labels.

        For plans made in Python: fvcore counts no operation of yours, and a search refuses a network of
        which the two counts disagree.
        """
        self._trace.count("custom", factor, shape, labels)


_Rule = TypeVar("_Rule", bound=Callable[[Tracing, Call], Labels | list[Labels]])


def custom_rule(*names: str) -> Callable[[_Rule], _Rule]:
    """Register how channels pass through operations of your own, `"namespace::name"`, in all overloads.

    The decorated function gets a `Tracing` and the executed `Call`: arguments by their names in the schema
    (`call["weight"]`), `call.first`, and outputs in `call.out`. It returns a tuple of labels, one for each
    dimension of the output, or a list of such tuples for several outputs:

        @jstc.rule("mylib::soft_threshold")     # x [N, C, H, W], threshold [C]
        def _(tracing, call):
            labels = tracing.labels(call["x"])
            tracing.tie(labels[1], tracing.labels(call["threshold"])[0])
            return labels

    Without a rule everything that meets the operation stays whole. A later rule of the same name replaces
    an earlier one. Raises `InputError` for names of another form.
    """
    for name in names:
        if not re.fullmatch(r"\w+::\w+", name):
            raise InputError(f"rule: expected 'namespace::name' of an operation, not {name!r}")
    if not names:
        raise InputError("rule: expected the name of an operation, such as 'mylib::myop'")

    def register(function: _Rule) -> _Rule:
        def checked(trace: TraceState, call: Call) -> list[Labels]:
            found = function(Tracing(trace), call)
            return _fitting(call, found if isinstance(found, list) else [found])

        rule(*names)(checked)
        return function

    return register


def _fitting(call: Call, found: list[Labels]) -> list[Labels]:
    """The labels as they were given; raises `ChannelError` when they do not fit the outputs."""
    shapes = [tuple(out.shape) for out in tensors_in(call.out)]
    sizes = [
        tuple(n if ids is None else len(ids) for ids, n in zip(labels, shape, strict=False))
        if isinstance(labels, tuple) and len(labels) == len(shape)
        else None
        for labels, shape in zip(found, shapes, strict=False)
    ]
    if len(found) != len(shapes) or sizes != shapes:
        wanted = ", ".join(str(list(shape)) for shape in shapes)
        raise ChannelError(
            f"the rule of {operation_name(call.func)} must return a tuple with one label for each dimension "
            f"of its output, in a list for several outputs; it does not fit {wanted}"
        )
    return found
