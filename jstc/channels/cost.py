"""FLOPs and parameters of any plan, by arithmetic; equal to fvcore's counts on the sliced network.

One multiply-add is one FLOP, as fvcore counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from jstc.channels.groups import Structure
from jstc.channels.trace.ids import Count, Ids

__all__ = ["Cost", "CostModel", "Latency"]


@dataclass(frozen=True)
class Cost:
    """Cost of one sub-network: `flops` for one image (one multiply-add is one FLOP) and `params`.

    `latency_ns` is the predicted time of a batch in nanoseconds, where there is something that predicts it.
    """

    flops: int
    params: int
    latency_ns: int | None = None


class Latency(Protocol):
    """Predicts milliseconds for kept counts per group; `block` channels are computed at once."""

    @property
    def block(self) -> int: ...

    def __call__(self, counts: NDArray[np.int64]) -> float: ...


class CostModel:
    """Sums of products of widths; each width is a constant plus multiples of the groups' kept counts."""

    def __init__(
        self, structure: Structure, counts: Sequence[Count], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._structure = structure
        self._groups = len(structure.groups)
        self._dims: dict[bytes, int] = {}
        # row 0 is the width 1, for terms with fewer factors
        self._constant: list[int] = [1]
        self._multiple: list[NDArray[np.int64]] = [np.zeros(self._groups, np.int64)]
        flops = [(c.factor, [self._dim(structure.number(ids)) for ids in c.dims]) for c in counts]
        params = [self._param(name, shape) for name, shape in shapes.items()]
        self.kinds = [c.kind for c in counts]
        self._rounded = np.array([i for i, c in enumerate(counts) if c.kind == "einsum"], np.int64)
        self._flops, self._params = _terms(flops), _terms(params)
        self._matrix = np.stack(self._multiple)
        self._base = np.array(self._constant)

    def _param(self, name: str, shape: tuple[int, ...]) -> tuple[int, list[int]]:
        factor, dims = 1, []
        for size, numbers in zip(shape, self._structure.numbers[name], strict=True):
            if numbers is None:
                factor *= size
            else:
                dims.append(self._dim(numbers))
        return factor, dims

    def _dim(self, numbers: Ids) -> int:
        key = numbers.tobytes()
        if key not in self._dims:
            group_of = self._group_of()
            self._dims[key] = len(self._constant)
            self._constant.append(int((numbers < 0).sum()))
            inside = np.bincount(group_of[numbers[numbers >= 0]], minlength=self._groups)
            widths = np.array([g.width for g in self._structure.groups], np.int64)
            assert not (inside % widths).any(), "a group's channels occur unequally often in one dimension"
            self._multiple.append(inside // widths)
        return self._dims[key]

    def _group_of(self) -> Ids:
        return np.repeat(np.arange(self._groups), [g.width for g in self._structure.groups])

    def __call__(self, counts: NDArray[np.int64]) -> Cost:
        """Cost for kept counts per group, in the order of the groups."""
        widths = self._base + self._matrix @ counts
        flops, params = (factor * widths[dims].prod(1) for factor, dims in (self._flops, self._params))
        for term in self._rounded:
            flops[term] = _as_einsum(int(flops[term]))
        return Cost(int(flops.sum()), int(params.sum()))

    def share(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """FLOPs per group, as a share of the whole, of the operations that the group takes part in.

        An operation between two groups belongs to both, so the shares add up to more than one.
        """
        widths = self._base + self._matrix @ counts
        factor, dims = self._flops
        each = factor * widths[dims].prod(1)
        touched = (self._matrix[dims] > 0).any(1)
        share: NDArray[np.float64] = (each[:, None] * touched).sum(0) / max(int(each.sum()), 1)
        return share

    def covered(self, counts: NDArray[np.int64], metric: Literal["flops", "params"] = "flops") -> float:
        """Share of the FLOPs (of the parameters) in operations (tensors) that some group takes part in."""
        widths = self._base + self._matrix @ counts
        factor, dims = self._flops if metric == "flops" else self._params
        each = factor * widths[dims].prod(1)
        touched = (self._matrix[dims] > 0).any((1, 2))
        return float(each[touched].sum() / max(int(each.sum()), 1))


def _as_einsum(flops: int) -> int:
    """FLOPs of an einsum in fvcore: numpy's count (two per multiply-add), printed with four digits."""
    return int(float(f"{2 * flops:.3e}") / 2)


def _terms(terms: Sequence[tuple[int, list[int]]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    most = max((len(dims) for _, dims in terms), default=0)
    padded = [dims + [0] * (most - len(dims)) for _, dims in terms]
    factors = np.array([factor for factor, _ in terms], np.int64)
    return factors, np.array(padded, np.int64).reshape(len(terms), most)
