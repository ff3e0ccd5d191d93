"""einsum: a letter is one dimension wherever it stands, so its channels are the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import Call, Ids, Labels
from jstc.channels.trace.state import TraceState

__all__ = ["letters"]


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
