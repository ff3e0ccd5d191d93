"""Products over a common dimension: linear layers, matrices, attention, distances, einsum.

The channels of the common dimension are tied. FLOPs are fvcore's: one multiply-add is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jstc.channels.rules.arithmetic import broadcast
from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import Call, Ids, Labels, fixed
from jstc.channels.trace.state import TraceState

__all__ = ["letters"]


@rule("linear")
def _linear(trace: TraceState, call: Call) -> Labels:
    """Input [*, C], weight [C_out, C]."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    x_ids, w = trace.labels(x), trace.labels(weight)
    trace.tie(x_ids[-1], w[-1])
    if trace.is_constant(x):
        trace.freeze(x_ids[-1], "given by a constant of the network")
    out = w[0] if weight.dim() == 2 else None
    if bias is not None:
        trace.tie(out, trace.labels(bias)[-1])
    common = w[-1] if x_ids[-1] is None else x_ids[-1]
    trace.count("linear", 1, (*x.shape, weight.shape[0]), (*x_ids[:-1], common, w[0]))
    trace.site("writer", (weight, bias), out)
    return (*x_ids[:-1], *w[:-1])


@rule("matmul", "mm", "bmm")
def _matmul(trace: TraceState, call: Call) -> Labels:
    """[*, n, k] x [*, k, m], with the vector forms of torch.matmul."""
    a, b = call.args[0], call.args[1]
    a_ids, b_ids = _matrices(trace, a), _matrices(trace, b)
    left = a_ids if a.dim() > 1 else (fixed(1), *a_ids)
    right = b_ids if b.dim() > 1 else (*b_ids, fixed(1))
    trace.tie(left[-1], right[-2])
    m = b.shape[-1] if b.dim() > 1 else 1
    kind = call.kind
    common = right[-2] if left[-1] is None else left[-1]
    trace.count(kind, 1, (*a.shape, m), (*a_ids[:-1], common, right[-1]))
    batch = _batch(trace, left[:-2], right[:-2])
    return (*batch, *([left[-2]] if a.dim() > 1 else []), *([right[-1]] if b.dim() > 1 else []))


def _batch(trace: TraceState, left: Labels, right: Labels) -> Labels:
    return trace.decided(broadcast(trace, (left, right), max(len(left), len(right))))


def _matrices(trace: TraceState, tensor: Tensor) -> Labels:
    """Labels of matrices [*, n, m]: undecided channels (heads by width) are kept by the batch."""
    return trace.labels(tensor, acting_on=tuple(range(tensor.dim()))[-2:])


@rule("scaled_dot_product_attention")
def _attention(trace: TraceState, call: Call) -> Labels:
    """Query [*, n, d], key [*, m, d], value [*, m, e] -> [*, n, e]. fvcore counts no FLOPs for it."""
    query, key, value = (_matrices(trace, call[name]) for name in ("query", "key", "value"))
    trace.tie(query[-1], key[-1])
    trace.tie(key[-2], value[-2])
    for ids in (query[-2], key[-2]):
        trace.freeze(ids, "attention between the channels")
    trace.inexact(query[-1], "attention is scaled by the number of channels")
    if call["enable_gqa"]:  # a head of keys and values serves as many of queries, which stay together
        for ids in (query[-3], key[-3], value[-3]):
            trace.freeze(ids, "heads of queries share heads of keys by their numbers")
    batch = _batch(trace, _batch(trace, query[:-2], key[:-2]), value[:-2])
    if call["attn_mask"] is not None:
        batch = _batch(trace, batch, trace.labels(call["attn_mask"])[:-2])
    return (*batch, query[-2], value[-1])


@rule("addmm", "baddbmm")
def _addmm(trace: TraceState, call: Call) -> Labels:
    bias, a, b = call.args[:3]
    a_ids, b_ids = trace.labels(a), trace.labels(b)
    trace.tie(a_ids[-1], b_ids[-2])
    trace.tie(trace.labels(bias)[-1], b_ids[-1])
    if call.func._schema.name == "aten::addmm":
        common = b_ids[-2] if a_ids[-1] is None else a_ids[-1]
        trace.count("addmm", 1, (*a.shape, b.shape[-1]), (*a_ids[:-1], common, b_ids[-1]))
    return (*a_ids[:-1], b_ids[-1])


@rule("mv", "dot", "vdot", "addmv")
def _vectors(trace: TraceState, call: Call) -> Labels:
    """Matrix [n, k] (or vector [k]) by vector [k], the power iteration of a spectral norm, say."""
    matrix, vector = (trace.labels(t) for t in call.tensors()[-2:])
    trace.tie(matrix[-1], vector[0])
    if "addmv" in call.kind:
        trace.tie(trace.labels(call.first)[-1], matrix[0])
    return matrix[:-1]


@rule("cdist", "_cdist_forward")
def _distances(trace: TraceState, call: Call) -> Labels:
    """Points [*, n, k] and [*, m, k] -> distances [*, n, m]."""
    a, b = (trace.labels(t, acting_on=(-2, -1)) for t in call.tensors()[:2])
    trace.tie(a[-1], b[-1])
    trace.inexact(a[-1], "distances over the channels")
    return (*a[:-2], a[-2], b[-2])


# -- einsum: a letter is one dimension wherever it stands, so its channels are the same in every operand


def letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand (of rank `ranks`) and of the output; dimensions of `...` are `.0`, `.1` ...

    >>> letters("...ij,jk", [3, 2])
    ([['.0', 'i', 'j'], ['j', 'k']], ['.0', 'i', 'k'])
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [term.replace("...", ".") for term in left.split(",")]
    dots = [rank - len(term) + 1 if "." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    most = max(dots, default=0)
    names = [f".{i}" for i in range(most)]
    operands = [
        [name for c in term for name in (names[most - n :] if c == "." else [c])]
        for term, n in zip(terms, dots, strict=True)
    ]
    if arrow:
        return operands, [n for c in right.replace("...", ".") for n in (names if c == "." else [c])]
    every = [name for operand in operands for name in operand]
    once = sorted(n for n in set(every) if every.count(n) == 1 and not n.startswith("."))
    return operands, names + once


_EXACT = {"abc,abd->acd", "abc,adc->adb"}
"""fvcore multiplies out the widths of these; of others it reads numpy's count, which is rounded."""


def _canonical(operands: Sequence[Sequence[str]], output: Sequence[str]) -> str:
    """The equation with letters in the order of their first use."""
    order = list(dict.fromkeys(name for term in [*operands, output] for name in term))
    terms = ["".join(chr(97 + order.index(name)) for name in term) for term in [*operands, output]]
    return f"{','.join(terms[:-1])}->{terms[-1]}"


@rule("einsum")
def _einsum(trace: TraceState, call: Call) -> Labels:
    """Operands with a letter for each dimension; letters that the output lacks are summed over."""
    tensors: list[Tensor] = list(call["tensors"])
    operands, output = letters(call["equation"], [t.dim() for t in tensors])
    every = [set(operand) for operand in operands] + [set(output)]
    shared = set.intersection(*every)  # like the batch of a matrix product
    ids: dict[str, Ids | None] = {}
    sizes: dict[str, int] = {}
    for tensor, operand in zip(tensors, operands, strict=True):
        acting = [d for d, name in enumerate(operand) if name not in shared]
        for name, found, size in zip(
            operand, trace.labels(tensor, acting_on=acting), tensor.shape, strict=True
        ):
            ids[name] = _meet(trace, ids.get(name), found)
            sizes[name] = max(sizes.get(name, 1), size)
    _inexact(trace, operands, output, ids)
    if len(operands) == 2 and set(sizes) - set(output):
        kind = "exact einsum" if _canonical(operands, output) in _EXACT else "einsum"
        trace.count(kind, 1, list(sizes.values()), [_sized(ids[n], size) for n, size in sizes.items()])
    return tuple(_sized(ids[name], size) for name, size in zip(output, call.out.shape, strict=True))


def _meet(trace: TraceState, a: Ids | None, b: Ids | None) -> Ids | None:
    if a is None or b is None:
        return b if a is None else a
    if len(a) != len(b):  # one of them is broadcast
        return a if len(a) > len(b) else b
    trace.tie(a, b)
    return a


def _inexact(
    trace: TraceState, operands: Sequence[list[str]], output: list[str], ids: dict[str, Ids | None]
) -> None:
    for name in {name for operand in operands for name in operand} - set(output):
        if sum(name in operand for operand in operands) == 1:
            trace.inexact(ids[name], "sum over the channels")


def _sized(ids: Ids | None, size: int) -> Ids | None:
    return ids if ids is None or len(ids) == size else np.zeros(size, np.int64)
