"""Random perturbation and flexible thresholding: from channel weights to a plan at the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jstc.jst.space import Space
from jstc.plan import Plan
from jstc.train import seeds

__all__ = ["gumbel", "joining_levels", "lasting_gumbel", "probabilities", "raised", "sample", "standardised"]

Vector = NDArray[np.float64]

_SMALLEST_SPREAD = 0.02
"""Channel weights that differ less than this are taken as equal, not blown up to unit spread."""


def standardised(groups: Sequence[Vector]) -> list[Vector]:
    """Channel weights of all groups, each group's mean removed, over the spread in the whole network.

    So sigma and tau mean the same early, when the weights have hardly moved, as late, and for any learning
    rate of theirs; what one group's weights say against another's is left to the thresholds. (Ours; the paper
    uses the weights as they are.)
    """
    centred = [g - g.mean() for g in groups]
    spread = float(np.sqrt(np.mean(np.concatenate(centred) ** 2))) if centred else 0.0
    return [c / max(spread, _SMALLEST_SPREAD) for c in centred]


def gumbel(size: int, random: np.random.Generator) -> Vector:
    """Gumbel(0, 1) noise, -log(-log u) (Lu et al. 2020)."""
    tiny = np.finfo(np.float64).tiny
    noise: Vector = -np.log(-np.log(np.maximum(random.random(size), tiny)))
    return noise


def lasting_gumbel(size: int, *, seed: int, round_: int, period: int) -> Vector:
    """Gumbel noise of which each element is drawn anew once in `period` rounds, a few of them every round.

    A pure function of its arguments. With a period of 1 every round has noise of its own, as in the paper;
    with a longer one successive plans share most of their channels, so what a round has trained is still
    there in the next.
    """
    turns = np.random.default_rng(seeds.derive(seed, "search", "turns")).integers(period, size=size)
    draw = (round_ + turns) // period  # the number of each element's present draw: one of two in a row
    first, second = round_ // period, round_ // period + 1
    both = [
        gumbel(size, np.random.default_rng(seeds.derive(seed, "search", "noise", number)))
        for number in (first, second)
    ]
    return np.where(draw == first, *both)


def probabilities(weights: Vector, noise: Vector, *, sigma: float, tau: float) -> Vector:
    """softmax((alpha + sigma * o) / tau) over the channels of one group (Lu et al. 2020)."""
    scores = (weights + sigma * noise) / tau
    exponent = np.exp(scores - scores.max())
    p: Vector = exponent / exponent.sum()
    return p


def joining_levels(p_sorted: Vector, threshold: float) -> Vector:
    """When each channel, in the order given, joins as one scalar s moves all thresholds.

    The keep set of a threshold r is the smallest whose probability adds up to r, so the k-th channel is in it
    when the k - 1 before it add up to less than r. With r moved to sigmoid(logit(r) + s), that is when
    s > logit(sum of those before) - logit(r).
    """
    before = np.concatenate([[0.0], np.cumsum(p_sorted)[:-1]])
    levels: Vector = _logit(before) - _logit(np.array(threshold))
    return np.maximum.accumulate(levels)


def raised(threshold: float, by: float) -> float:
    """The threshold sigmoid(logit(r) + `by`): by as much as the projection moves all of them."""
    return threshold / (threshold + (1 - threshold) * math.exp(-by))


def _logit(p: Vector) -> Vector:
    safe = np.clip(p, 1e-9, 1 - 1e-9)
    value: Vector = np.log(safe) - np.log1p(-safe)
    return value


def sample(
    space: Space,
    p: Sequence[Vector],
    thresholds: Sequence[float],
    *,
    ranks: Sequence[Vector] | None = None,
    earlier: Sequence[Vector] | None = None,
) -> Plan:
    """The plan of channel probabilities and thresholds per group, projected onto the budget.

    Channels join in falling order of `ranks`, which are the probabilities themselves where none are given.
    `earlier` [channels of the group], in the units of `joining_levels`, favours the widths that they had: as
    many channels of a group as have a value join so much sooner, whichever they are.
    """
    order = [np.argsort(-each, kind="stable") for each in ranks or p]
    levels = [joining_levels(each[o], r) for each, o, r in zip(p, order, thresholds, strict=True)]
    if earlier is not None:
        levels = [each - np.sort(sooner)[::-1] for each, sooner in zip(levels, earlier, strict=True)]
    return space.plan(order, levels)
