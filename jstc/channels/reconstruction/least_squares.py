"""A layer as a linear map of samples, and its ridge least-squares fit from sums over them.

He et al. 2017 (Channel Pruning, section 3.1) fit the kept inputs of a convolution to the outputs of the
uncut one. Here the fit is for the change of the weights, from what the cut layer gives: what the samples say
nothing about stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Fit", "Layer", "Sums", "fitted"]

_RIDGES = (1e-3, 1e-2, 1e-1)
"""Shares of the mean diagonal of the Gram matrix; which of them, held-out samples say."""
_SAMPLES_PER_FEATURE = 8
_FEWEST_SAMPLES = 16_384


@dataclass(frozen=True)
class Layer:
    """A convolution (`spatial` dimensions of 1 to 3) or a linear layer (0), as it was called.

    `weight` is [out, in / groups, *kernel]. With `scaled`, a depthwise layer: each channel has one factor.
    """

    spatial: int
    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any]) -> Layer:
        """The layer in a call of `linear` or `conv1d` to `conv3d`, whose arguments are given by name."""
        weight = arguments["weight"]
        spatial = weight.dim() - 2
        if name == "linear":
            return cls(0, weight, (), (), (), 1)

        def each(key: str, default: int) -> tuple[int, ...]:
            value = arguments.get(key, default)
            values = (value,) if isinstance(value, int) else tuple(value)
            return values * spatial if len(values) == 1 else values

        dilation = each("dilation", 1)
        if isinstance(padding := arguments.get("padding", 0), str):
            extents = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            sides = [(e // 2, e - e // 2) if padding == "same" else (0, 0) for e in extents]
        else:
            sides = [(p, p) for p in each("padding", 0)]
        return cls(spatial, weight, each("stride", 1), tuple(sides), dilation, arguments.get("groups", 1))

    @property
    def scaled(self) -> bool:
        """Whether the layer is depthwise: one input channel for each group."""
        return self.spatial > 0 and self.groups > 1 and self.weight.shape[1] == 1

    @property
    def features(self) -> int:
        """Fitted numbers of an output channel, without the constant."""
        return 1 if self.scaled else math.prod(self.weight.shape[1:])

    def positions(self, shape: Sequence[int], images: int, generator: torch.Generator) -> Tensor:
        """Some positions of an output of `shape`, [P], so that `images` images give samples enough.

        For a linear layer these are tokens: the dimensions between the first and the last.
        """
        places = math.prod(shape[2:] if self.spatial else shape[1:-1])
        wanted = max(_FEWEST_SAMPLES, _SAMPLES_PER_FEATURE * self.features)
        count = min(places, max(1, math.ceil(wanted / max(images, 1))))
        return torch.randperm(places, generator=generator)[:count].sort().values

    def rows(self, output: Tensor, positions: Tensor) -> Tensor:
        """Values of an output of the layer at `positions`: [N x P, channels]."""
        at = positions.to(output.device)
        if self.spatial:
            return output.flatten(2)[:, :, at].transpose(1, 2).flatten(0, 1)
        return output.reshape(len(output), -1, output.shape[-1])[:, at].flatten(0, 1)

    def samples(self, given: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Features [groups, N x P, features] and, of them, what the weights make: [N x P, out]."""
        if not self.spatial:
            found = self.rows(given, positions)
            return found[None], found @ self.weight.T
        patches = self._patches(given, positions)
        weight = self.weight.reshape(self.groups, self.weight.shape[0] // self.groups, -1)
        made = torch.bmm(patches, weight.transpose(1, 2))  # [groups, N x P, out / groups]
        rows = made.transpose(0, 1).flatten(1)
        # One feature for each output channel of a depthwise layer: what it gives.
        return (rows.T[:, :, None] if self.scaled else patches), rows

    def _patches(self, given: Tensor, positions: Tensor) -> Tensor:
        kernel = self.weight.shape[2:]
        padded = F.pad(given, [side for pair in reversed(self.padding) for side in pair])
        counts = [
            (padded.shape[2 + d] - self.dilation[d] * (kernel[d] - 1) - 1) // self.stride[d] + 1
            for d in range(self.spatial)
        ]
        index: list[Any] = [slice(None), slice(None)]
        rest = positions.to(given.device)
        starts: list[Tensor] = []
        for count in reversed(counts):
            starts.insert(0, rest % count)
            rest = rest // count
        for d, start in enumerate(starts):
            taps = torch.arange(kernel[d], device=given.device) * self.dilation[d]
            at = start[:, None] * self.stride[d] + taps  # [P, kernel]
            index.append(at.reshape(len(at), *(-1 if e == d else 1 for e in range(self.spatial))))
        taken = padded[tuple(index)]  # [N, C, P, *kernel]
        number, channels, places = taken.shape[:3]
        parted = taken.reshape(number, self.groups, channels // self.groups, places, -1)
        return parted.permute(1, 0, 3, 2, 4).reshape(self.groups, number * places, -1)

    def changed(self, change: Tensor) -> Tensor:
        """The weight with a fitted `change` [groups, features, out / groups]."""
        if self.scaled:
            factors = (1 + change).reshape(-1, *(1,) * (self.weight.dim() - 1))
            return self.weight * factors.to(self.weight.dtype)
        moved = change.transpose(1, 2).reshape(self.weight.shape)
        return (self.weight.double() + moved).to(self.weight.dtype)


class Sums:
    """Sums over samples that say all about a fit: of features with a constant last, and of what is missing.

    `gram` is [groups, features + 1, features + 1], `cross` [groups, features + 1, out / groups], `square` and
    `spread` [out]: squares of what is missing, and of the wanted outputs from their mean. Float64.
    """

    def __init__(self, layer: Layer) -> None:
        out, extra = layer.weight.shape[0], layer.features + 1
        groups = out if layer.scaled else layer.groups
        new = layer.weight.new_zeros((), dtype=torch.float64).new_zeros
        self.gram, self.cross = new(groups, extra, extra), new(groups, extra, out // groups)
        self.square, self._first, self._second = (new(out) for _ in range(3))
        self._count = new(1)

    def add(self, features: Tensor, missing: Tensor, wanted: Tensor) -> None:
        """Add samples: features [groups, S, features], what is missing and what is wanted [S, out]."""
        one = features.new_ones(features.shape[0], features.shape[1], 1)
        extended = torch.cat([features, one], dim=2)
        parted = missing.reshape(len(missing), features.shape[0], -1).transpose(
            0, 1
        )  # [groups, S, out / groups]
        self.gram += torch.bmm(extended.transpose(1, 2), extended).double()
        self.cross += torch.bmm(extended.transpose(1, 2), parted).double()
        exact = wanted.double()
        self.square += missing.double().square().sum(0)
        self._first += exact.sum(0)
        self._second += exact.square().sum(0)
        self._count += len(missing)

    @property
    def tensors(self) -> list[Tensor]:
        """All sums: what several processes add up."""
        return [self.gram, self.cross, self.square, self._first, self._second, self._count]

    @property
    def spread(self) -> Tensor:
        """Squares of the wanted outputs from their mean, summed: [out]."""
        return self._second - self._first.square() / self._count.clamp_min(1)

    def left(self, change: Tensor) -> Tensor:
        """Squares of what a change [groups, features + 1, out / groups] leaves missing, summed: [out]."""
        less = (2 * change * self.cross - change * torch.bmm(self.gram, change)).sum(1)
        return (self.square - less.flatten()).clamp_min(0)

    def plus(self, other: Sums) -> Sums:
        """Both."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine.add_(theirs)
        return self


@dataclass(frozen=True)
class Fit:
    """A change of weights [groups, features, out / groups], and of the constant [out].

    `before` and `after` are the shares of the wanted outputs' spread that the layer explains, on samples that
    the choice of the ridge has seen, but the fit has not.
    """

    change: Tensor
    constant: Tensor
    before: float
    after: float


def fitted(fit: Sums, held_out: Sums, *, constant: bool, importance: Tensor) -> Fit | None:
    """The ridge fit that leaves least on the held-out samples, made with all; None where none is a gain.

    `importance` [out] weighs the outputs' errors against each other. Without `constant` that stays as it is.
    """

    def explained(left: Tensor) -> float:
        spread = float((importance * held_out.spread).sum())
        return 1 - float((importance * left).sum()) / spread if spread > 0 else 1.0

    before = explained(held_out.square)
    candidates: list[tuple[float, float]] = []
    for ridge in _RIDGES:
        change = _solved(fit, ridge, constant=constant)
        if change is not None and bool(torch.isfinite(change).all()):
            candidates.append((explained(held_out.left(change)), ridge))
    if not candidates or not (best := max(candidates))[0] > before:
        return None
    change = _solved(fit.plus(held_out), best[1], constant=constant)
    if change is None:
        return None
    return Fit(change[:, :-1], change[:, -1].flatten(), before, best[0])


def _solved(sums: Sums, ridge: float, *, constant: bool) -> Tensor | None:
    """The change [groups, features + 1, out / groups] that leaves least; None where there is none."""
    gram, cross = sums.gram.clone(), sums.cross
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal[:, :-1] += ridge * diagonal[:, :-1].mean(dim=1, keepdim=True) + torch.finfo(torch.float64).tiny
    if not constant:
        gram[:, -1, :], gram[:, :, -1], cross = 0, 0, cross.clone()
        gram[:, -1, -1], cross[:, -1] = 1, 0
    factor, wrong = torch.linalg.cholesky_ex(gram)
    return None if bool(wrong.any()) else torch.cholesky_solve(cross, factor)
