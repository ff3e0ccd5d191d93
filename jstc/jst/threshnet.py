"""ThreshNet: a small policy network that says how wide each channel group is to be.

The way round: `describe` makes a state of every group, `ThreshNet.draw` perturbs the network's weights, which
gives every group an offset of its threshold's logarithm, the plans of these offsets earn rewards, and
`ThreshNet.learn` moves the weights towards those that earned most. The projection onto the budget moves all
thresholds together, so only how offsets differ from each other counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jstc.channels import ChannelMap

__all__ = ["Choice", "ThreshNet", "describe", "taper"]

Vector = NDArray[np.float64]

_CENTRES = np.linspace(-0.15, 1.15, 8)
_REACH = 0.21
"""Radial units over the relative depth, and their width: so far apart two groups still move together."""
_STATES = 0.3
"""Scale of what a group's other states, one standard deviation from the mean, may add to its offset."""
_SPREAD = 0.8
"""Standard deviation of an offset at sigma 1."""
_OWN_COARSE, _OWN_FINE = 0.2, 0.9
"""Share of an offset's variance that the groups' own weights have; those that all share have the rest. Coarse
draws move neighbours together somewhat, fine ones hardly."""
_ELITE = 0.25
_BASELINE_DECAY = 0.8
_LARGEST = 3.0
"""Advantages beyond this are cut off: the spread of the first few rewards is a guess."""
_TAPER = 0.09


def describe(channels: ChannelMap, worth: Vector | None = None) -> Vector:
    """One state vector per group, [groups, 6]: depth from 0 to 1, then what one channel of it says.

    Log width; whether it is a residual stream; the share of FLOPs in operations that the group takes part in;
    log parameters per FLOP that half of it saves; and log `worth` [groups], what the channel weights say of
    its channels on the whole.
    """
    groups = channels.groups
    depth = np.arange(len(groups)) / max(1, len(groups) - 1)
    width = np.log([group.width for group in groups])
    stream = [float(group.name in channels.streams) for group in groups]
    share = [channels.flops_share[group.name] for group in groups]
    said = np.zeros(len(groups)) if worth is None else np.log(np.maximum(worth, 1e-12))
    columns = [depth, width, np.array(stream), np.array(share), _params_per_flop(channels), said]
    return np.stack(columns, axis=1) if groups else np.zeros((0, len(columns)))


def _params_per_flop(channels: ChannelMap) -> Vector:
    """Log of the parameters over the FLOPs that half of each group's channels save, [groups]."""
    full, found = channels.full_counts, []
    whole = channels.cost_of_counts(full)
    for group, width in enumerate(full.tolist()):
        half = full.copy()
        half[group] = max(1, width // 2)
        cost = channels.cost_of_counts(half)
        params, flops = whole.params - cost.params, whole.flops - cost.flops
        found.append(np.log(max(params, 1) / max(flops, 1)))
    return np.array(found, np.float64)


def taper(channels: ChannelMap) -> Vector:
    """Offsets [groups] of a mild taper: a group has fewer channels where these cost more parameters per FLOP.

    Ours. Of evenly narrow networks the widest layers of the smallest images cost most parameters and miss
    them least (docs/research/given-weights.md).
    """
    found = -_TAPER * _params_per_flop(channels)
    return found - found.mean() if len(found) else found


@dataclass(frozen=True)
class Choice:
    """What the policy drew: perturbed weights of the units that all groups share [units], and [groups]."""

    shared: Vector
    own: Vector

    def tensors(self) -> dict[str, Tensor]:
        """Both, for a checkpoint."""
        return {"shared": torch.from_numpy(self.shared), "own": torch.from_numpy(self.own)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Choice:
        """The inverse of `tensors`."""
        return cls(tensors["shared"].double().numpy(), tensors["own"].double().numpy())


class ThreshNet:
    """Policy network with one hidden layer of fixed units, and an output weight of each group's own.

    Of the hidden units some are radial functions of a group's depth (Broomhead and Lowe 1988), so that
    groups near each other move together, and the others its states, standardised over the groups. A
    perturbation of the weights is normally distributed. `start` [groups] is added to every offset.

    Learning is the cross-entropy method (Rubinstein 1999): the weights go by `lr` of the way to the mean of
    the best quarter of those judged against each other. A single reward is compared with a moving average of
    those before it, and the weights follow its perturbation by as much (Williams 1992).
    """

    def __init__(self, states: Vector, *, start: Vector | None = None, lr: float = 0.5) -> None:
        self.lr = lr
        self._hidden = _hidden(states)
        self._start = np.zeros(len(states)) if start is None else start
        self._mean = Choice(np.zeros(self._hidden.shape[1]), np.zeros(len(states)))
        self._moving: list[float] = []  # mean, spread, rewards compared

    @property
    def likeliest(self) -> Choice:
        """The weights as they are, unperturbed."""
        return self._mean

    @property
    def even(self) -> Choice:
        """Weights that take the start away: all groups keep the same share."""
        return Choice(np.zeros_like(self._mean.shared), -self._start)

    def offsets(self, choice: Choice | None = None) -> Vector:
        """Offsets of the thresholds' logarithms [groups], of the weights as they are without a choice."""
        weights = choice or self._mean
        found: Vector = self._start + self._hidden @ weights.shared + weights.own
        return found - found.mean() if len(found) else found

    def draw(
        self, number: int, random: np.random.Generator, *, sigma: float, coarse: bool = False
    ) -> list[Choice]:
        """So many perturbed weights, in antithetic pairs; `coarse`: more of the shared ones."""
        found: list[Choice] = []
        mean, spread, share = self._mean, _SPREAD * sigma, _OWN_COARSE if coarse else _OWN_FINE
        while len(found) < number:
            shared = spread * np.sqrt(1 - share) * random.normal(size=len(mean.shared))
            own = spread * np.sqrt(share) * random.normal(size=len(mean.own))
            found += [Choice(mean.shared + s * shared, mean.own + s * own) for s in (1, -1)]
        return found[:number]

    def one_by_one(self, number: int, first: int, *, sigma: float) -> list[Choice]:
        """So many choices that move a single group each, up and down in turn; `first` counts those before."""
        found, mean = [], self._mean
        for turn in range(first, first + number):
            own = mean.own.copy()
            if len(own):
                own[turn // 2 % len(own)] += _SPREAD * sigma * (1 if turn % 2 == 0 else -1)
            found.append(Choice(mean.shared, own))
        return found

    def learn(self, choices: Sequence[Choice], rewards: Sequence[float]) -> float:
        """Move towards what earned most; returns the largest advantage, in spreads of the rewards."""
        if len(choices) == 1:
            return self._follow(choices[0], rewards[0])
        values = np.array(rewards, np.float64)
        if not (spread := float(values.std())):
            return 0.0
        order = np.argsort(-values, kind="stable")[: max(1, round(_ELITE * len(values)))]
        best = Choice(
            np.mean([choices[i].shared for i in order], axis=0),
            np.mean([choices[i].own for i in order], axis=0),
        )
        self._move(best, self.lr)
        return float((values.max() - values.mean()) / spread)

    def settle(self, choice: Choice) -> None:
        """Take over the weights of a choice."""
        self._mean = choice

    def _move(self, towards: Choice, by: float) -> None:
        mean = self._mean
        self._mean = Choice(
            mean.shared + by * (towards.shared - mean.shared), mean.own + by * (towards.own - mean.own)
        )

    def _follow(self, choice: Choice, reward: float) -> float:
        if not self._moving:
            self._moving = [reward, 0.0, 0.0]
            return 0.0
        mean, spread, compared = self._moving
        difference = reward - mean
        spread = _BASELINE_DECAY * spread + (1 - _BASELINE_DECAY) * abs(difference)
        mean = _BASELINE_DECAY * mean + (1 - _BASELINE_DECAY) * reward
        self._moving = [mean, spread, compared + 1]
        # The spread began at zero; it is corrected for that as Adam's moments are (Kingma and Ba 2015).
        unbiased = spread / (1 - _BASELINE_DECAY ** (compared + 1))
        advantage = max(-_LARGEST, min(_LARGEST, difference / max(unbiased, 1e-6)))
        self._move(choice, self.lr * advantage / _LARGEST)
        return float(advantage)

    def state(self) -> tuple[dict[str, Tensor], list[float]]:
        """Tensors and figures from which `restore` continues exactly."""
        return self._mean.tensors(), list(self._moving)

    def restore(self, tensors: Mapping[str, Tensor], figures: Sequence[Any]) -> None:
        """Take over what `state` gave."""
        self._mean, self._moving = Choice.of(tensors), [float(each) for each in figures]


def _hidden(states: Vector) -> Vector:
    """Outputs of the hidden units [groups, units]; an offset made of them has unit variance, on the mean."""
    if not len(states):
        return np.zeros((0, len(_CENTRES) + states.shape[1] - 1))
    radial = np.exp(-((states[:, :1] - _CENTRES) ** 2) / (2 * _REACH**2))
    others = states[:, 1:] - states[:, 1:].mean(axis=0)
    others = _STATES * others / np.maximum(others.std(axis=0), 1e-6)
    hidden = np.concatenate([radial, np.clip(others, -3 * _STATES, 3 * _STATES)], axis=1)
    found: Vector = hidden / np.sqrt(np.mean((hidden**2).sum(axis=1)))
    return found
