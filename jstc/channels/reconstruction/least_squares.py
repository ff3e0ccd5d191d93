"""The ridge least-squares fit of a layer, from sums over samples or from the samples themselves.

He et al. 2017 (Channel Pruning, section 3.1) fit the kept inputs of a convolution to the outputs of the
uncut one. Here the fit is for the change of the weights, from what the cut layer gives: what the samples say
nothing about stays as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jstc.channels.reconstruction.layers import Layer

__all__ = ["Equations", "Fit", "Rows", "Samples", "Sums", "equations", "fitted", "moved", "refitted"]

_RIDGES = (1e-3, 1e-2, 1e-1)
"""Shares of the mean square of a feature, times the samples; which of them, held-out samples say."""
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Rows:
    """Features [groups, S, features]; what the layer makes, is wanted, and is added to it [S, out]."""

    features: Tensor
    made: Tensor
    wanted: Tensor
    other: Tensor | None

    def at(self, which: Tensor) -> Rows:
        """Some of them."""
        at = which.nonzero().flatten().to(self.made.device)
        rest = (None if tensor is None else tensor[at] for tensor in (self.made, self.wanted, self.other))
        return Rows(self.features.index_select(1, at), *rest)  # type: ignore[arg-type]


class Equations(ABC):
    """What samples say about a fit: features, and what is missing of the wanted outputs.

    `square`, `shown` and the spread [out] are squares of what is missing, of what of that shows behind an
    activation, and of the wanted outputs from their mean. Float64.
    """

    def __init__(self, layer: Layer) -> None:
        self._new = layer.weight.new_zeros((), dtype=torch.float64).new_zeros
        self.square, self.shown, self._first, self._second = (self._new(layer.out) for _ in range(4))
        self._count = self._new(1)

    def add(
        self, features: Tensor, missing: Tensor, wanted: Tensor, shown: Tensor, *, again: bool = False
    ) -> None:
        """Add samples: features [groups, S, features]; what is missing, wanted, and shows of it [S, out].

        With `again` the features are there already, from an earlier round.
        """
        self._add(features, missing, again=again)
        exact = wanted.double()
        self.square += missing.double().square().sum(0)
        self.shown += shown.double().square().sum(0)
        self._first += exact.sum(0)
        self._second += exact.square().sum(0)
        self._count += len(missing)

    @abstractmethod
    def _add(self, features: Tensor, missing: Tensor, *, again: bool) -> None: ...

    def clear(self) -> None:
        """Forget what was wanted and missing; of the features all stays."""
        for tensor in (self.square, self.shown, self._first, self._second, self._count):
            tensor.zero_()

    @abstractmethod
    def factor(self, ridge: float, *, constant: bool) -> Tensor | None:
        """The Cholesky factor of the equations with a ridge; None where there is none."""

    @abstractmethod
    def solved(self, factor: Tensor, last: Tensor | None, *, constant: bool) -> Tensor:
        """The change [groups, features + 1, out / groups] that makes what is missing after the `last` one."""

    @abstractmethod
    def left(self, change: Tensor) -> Tensor:
        """Squares of what a change [groups, features + 1, out / groups] leaves missing, summed: [out]."""

    def explained(self, left: Tensor, importance: Tensor) -> float:
        """The share of the wanted outputs' spread that is not `left` [out]; both weighed by `importance`."""
        spreads = self._second - self._first.square() / self._count.clamp_min(1)
        spread = float((importance * spreads).sum())
        return 1 - float((importance * left).sum()) / spread if spread > 0 else 1.0


class Sums(Equations):
    """Sums over samples, which several processes can add up, however many samples there are.

    `gram` is [groups, features + 1, features + 1], of features with a constant last, `cross` [groups,
    features + 1, out / groups].
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        groups, extra = layer.out if layer.scaled else layer.groups, layer.features + 1
        self.gram, self.cross = self._new(groups, extra, extra), self._new(groups, extra, layer.out // groups)

    def _add(self, features: Tensor, missing: Tensor, *, again: bool) -> None:
        parted = _parted(missing, len(features))
        if not again:
            self.gram[:, :-1, :-1] += torch.bmm(features.transpose(1, 2), features)
            once = features.sum(1, dtype=torch.float64)
            self.gram[:, -1, :-1] += once
            self.gram[:, :-1, -1] += once
            self.gram[:, -1, -1] += len(missing)
        self.cross[:, :-1] += torch.bmm(features.transpose(1, 2), parted)
        self.cross[:, -1] += parted.sum(1, dtype=torch.float64)

    def clear(self) -> None:
        """Forget what was wanted and missing; of the features the sums stay."""
        super().clear()
        self.cross.zero_()

    def tensors(self, *, again: bool) -> list[Tensor]:
        """All sums; `again`: those alone that hang on what is wanted and missing."""
        targets = [self.cross, self.square, self.shown, self._first, self._second, self._count]
        return targets if again else [self.gram, *targets]

    def factor(self, ridge: float, *, constant: bool) -> Tensor | None:
        """The factor of the Gram matrix: [groups, features + 1, features + 1]."""
        gram = self.gram.clone()
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal[:, :-1] += ridge * diagonal[:, :-1].mean(dim=1, keepdim=True) + _TINY
        if not constant:
            gram[:, -1, :], gram[:, :, -1] = 0, 0
            gram[:, -1, -1] = 1
        return _factored(gram)

    def solved(self, factor: Tensor, last: Tensor | None, *, constant: bool) -> Tensor:
        """The change by the normal equations."""
        cross = self.cross if last is None else self.cross + torch.bmm(self.gram, last)
        if not constant:
            cross = cross.clone()
            cross[:, -1] = 0
        return torch.cholesky_solve(cross, factor)

    def left(self, change: Tensor) -> Tensor:
        """Squares of what a change leaves missing, summed: [out]."""
        less = (2 * change * self.cross - change * torch.bmm(self.gram, change)).sum(1)
        return (self.square - less.flatten()).clamp_min(0)


class Samples(Equations):
    """The samples themselves. With fewer of them than features the dual of the fit takes less than sums do.

    A ridge fit's change is X^T (X X^T + ridge)^-1 Y (Saunders et al. 1998, Ridge Regression Learning
    Algorithm in Dual Variables): a matrix of samples by samples. A constant, which no ridge holds back, is
    what is left of the means.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self._features: list[Tensor] = []
        self._missing: list[Tensor] = []
        self._kernel: Tensor | None = None
        self._mean = self._new(1)

    def _add(self, features: Tensor, missing: Tensor, *, again: bool) -> None:
        if not again:
            self._features.append(features)
        self._missing.append(missing)

    def clear(self) -> None:
        """Forget what was wanted and missing; the features stay."""
        super().clear()
        self._missing.clear()

    def factor(self, ridge: float, *, constant: bool) -> Tensor | None:
        """The factor of the kernel matrix: [groups, S, S]."""
        if self._kernel is None:  # one for all ridges
            features = self._joined()
            self._mean = features.double().square().sum(dim=(1, 2)) / features.shape[2]
            if constant:
                features = features - features.mean(dim=1, keepdim=True)
            self._kernel = torch.bmm(features, features.transpose(1, 2)).double()
        kernel = self._kernel.clone()
        kernel.diagonal(dim1=1, dim2=2).add_(ridge * self._mean[:, None] + _TINY)
        return _factored(kernel)

    def solved(self, factor: Tensor, last: Tensor | None, *, constant: bool) -> Tensor:
        """The change by the dual."""
        features = self._joined()
        wanted = torch.cat(self._missing).double()
        if last is not None:
            wanted += moved(features, last)
        parted = _parted(wanted, len(features))
        outputs = parted.mean(dim=1, keepdim=True) if constant else torch.zeros_like(parted[:, :1])
        inputs = features.mean(dim=1, keepdim=True) if constant else torch.zeros_like(features[:, :1])
        dual = torch.cholesky_solve(parted - outputs, factor).to(features.dtype)
        change = torch.bmm((features - inputs).transpose(1, 2), dual).double()
        return torch.cat([change, outputs - torch.bmm(inputs.double(), change)], 1)

    def left(self, change: Tensor) -> Tensor:
        """Squares of what a change leaves missing, summed: [out]."""
        return (torch.cat(self._missing) - moved(self._joined(), change)).double().square().sum(0)

    def _joined(self) -> Tensor:
        if len(self._features) > 1:
            self._features[:] = [torch.cat(self._features, 1)]
        return self._features[0]


def equations(layer: Layer, samples: int, *, summed: bool) -> tuple[Equations, Equations]:
    """The equations of samples to fit on, and of held-out ones: in the form that takes less for so many.

    With `summed` those that several processes can add up.
    """
    kind = Samples if samples <= layer.features and not summed else Sums
    return kind(layer), kind(layer)


def _parted(rows: Tensor, groups: int) -> Tensor:
    """Values [S, out] by groups: [groups, S, out / groups]."""
    return rows.reshape(len(rows), groups, rows.shape[1] // groups).transpose(0, 1)


def _factored(matrix: Tensor) -> Tensor | None:
    factor, wrong = torch.linalg.cholesky_ex(matrix)
    return None if bool(wrong.any()) else factor


@dataclass(frozen=True)
class Fit:
    """A change of weights and, last, of the constant: [groups, features + 1, out / groups].

    `before` and `after` are the shares of the wanted outputs' spread that the layer explains, on samples that
    the choice of the ridge has seen, but the fit has not. `factor` is that of the equations with the ridge.
    """

    change: Tensor
    before: float
    after: float
    factor: Tensor


def fitted(fit: Equations, held_out: Equations, *, constant: bool, importance: Tensor) -> Fit | None:
    """The ridge fit that leaves least on the held-out samples; None where none is a gain.

    `importance` [out] weighs the outputs' errors against each other. Without `constant` that stays as it is.
    """
    before = held_out.explained(held_out.square, importance)
    best: Fit | None = None
    for ridge in _RIDGES:
        factor = fit.factor(ridge, constant=constant)
        if factor is None:
            continue
        change = fit.solved(factor, None, constant=constant)
        after = held_out.explained(held_out.left(change), importance)
        if after > (before if best is None else best.after):  # never where it is not a number
            best = Fit(change, before, after, factor)
    return best


def moved(features: Tensor, change: Tensor) -> Tensor:
    """What a change [groups, features + 1, out / groups] adds to the outputs at features: [S, out]."""
    exact = change.to(features.dtype)
    return torch.baddbmm(exact[:, -1:], features, exact[:, :-1]).transpose(0, 1).flatten(1)


def refitted(last: Fit, fit: Equations, held_out: Equations, *, constant: bool, importance: Tensor) -> Fit:
    """The fit with the ridge of the `last` one, for sums of what is missing after that."""
    change = fit.solved(last.factor, last.change, constant=constant)
    left = held_out.left(change - last.change)
    return replace(last, change=change, after=held_out.explained(left, importance))
