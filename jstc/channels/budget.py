"""Meet a budget: how many channels of each group fit under a bound on FLOPs, parameters or latency.

Every way to choose widths is written as *levels*: for each group a non-decreasing array with the value of
one common scalar at which its k-th channel joins. Raising the scalar moves all groups together, so the
channels (in the steps of each group) form one queue; the longest prefix within the budget is taken,
and the rest of the queue fills what is left, as far as single steps fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from jstc.channels.cost import Cost
from jstc.channels.groups import Group, matches, near
from jstc.core import numbers
from jstc.errors import BudgetError, RecipeError
from jstc.recipe.amounts import Amount, Asked, Metric, milliseconds
from jstc.recipe.schema import ChannelSettings

__all__ = [
    "Bound",
    "Budget",
    "WidthBounds",
    "project",
    "resolve",
    "smallest",
    "step_for",
    "uniform_counts",
]

# -- bounds: the least width of each group and the step of its width, by the recipe's settings --------------

Counts = NDArray[np.int64]
Step = int | Literal["auto"]

_FINEST = 8
"""Parts of a group that `round_to: auto` makes at most; fewer, so that narrow groups keep multiples of 8 as
well, where the budget leaves room for it (`jstc.jst.space`)."""


@dataclass(frozen=True)
class WidthBounds:
    """Least kept channels and step per group, in the order of the groups."""

    least: Counts
    step: Counts

    @classmethod
    def of(
        cls, groups: Sequence[Group], *, round_to: Step = 1, min_share: float = 0.0, min_width: int = 1
    ) -> WidthBounds:
        """Multiples of `round_to` (see `step_for`), at least `min_share` of each group."""
        return cls._each(groups, [(round_to, min_share, min_width)] * len(groups))

    @classmethod
    def from_settings(
        cls,
        groups: Sequence[Group],
        settings: ChannelSettings,
        *,
        block: int | None = None,
        parts: int = _FINEST,
        least: int = 1,
    ) -> WidthBounds:
        """The bounds of a recipe, with its settings for single groups; the others as for `step_for`.

        Raises `RecipeError`, with near names, for a pattern in `channels.groups` that matches no group.
        """
        _require_matches(groups, settings)
        return cls._each(groups, [_rule(group, settings) for group in groups], block, parts, least)

    @classmethod
    def _each(
        cls,
        groups: Sequence[Group],
        rules: Sequence[tuple[Step, float, int]],
        block: int | None = None,
        parts: int = _FINEST,
        least: int = 1,
    ) -> WidthBounds:
        widths = np.array([g.width for g in groups], np.int64)
        pairs = zip(groups, rules, strict=True)
        steps = [step_for(g.width, r[0], block=block, parts=parts, least=least) for g, r in pairs]
        step = np.array(steps, np.int64)
        shares = np.array([r[1] for r in rules], np.float64)
        wanted = np.maximum(np.ceil(widths * shares).astype(np.int64), np.array([r[2] for r in rules], int))
        return cls(np.minimum(-(-wanted // step) * step, widths), step)


def step_for(
    width: int, round_to: Step, *, block: int | None = None, parts: int = _FINEST, least: int = 1
) -> int:
    """Step of a group's kept width; `auto` is the largest of 1, 2, 4, 8 that goes into it `parts` times.

    Where that is below `least` it is as much, or the most that goes into the group twice.
    Where it is known that the provider computes `block` channels at once, `auto` is the largest power of two
    up to that and up to a quarter of the group.
    """
    if round_to != "auto":
        return min(round_to, width)
    most = 8 if block is None else block
    part = max(width // (parts if block is None else 4), min(least, width // 2))
    step = 1
    while 2 * step <= min(most, part):
        step *= 2
    return step


def _rule(group: Group, settings: ChannelSettings) -> tuple[Step, float, int]:
    """`round_to`, `min_share` and `min_width` of one group: of the entries that set one, the last wins."""
    found = {name: getattr(settings, name) for name in ("round_to", "min_share", "min_width")}
    for pattern, own in settings.groups.items():
        if _names(group, pattern):
            found |= {name: value for name, value in own if value is not None}
    return found["round_to"], found["min_share"], found["min_width"]


def _names(group: Group, pattern: str) -> bool:
    return any(matches(name, pattern) for name in (group.name, *group.layers))


def _require_matches(groups: Sequence[Group], settings: ChannelSettings) -> None:
    for pattern in settings.groups:
        if not any(_names(group, pattern) for group in groups):
            names = list(dict.fromkeys(name for group in groups for name in (group.name, *group.layers)))
            raise RecipeError(
                f"channels.groups: '{pattern}' matches no group that can be cut, nor a layer of one",
                f"{near(pattern, names)}; 'jstc inspect' lists the groups",
            )


# -- budgets ------------------------------------------------------------------------------------------------

Levels = Sequence[NDArray[np.float64]]
_FULL_ENOUGH = 0.995
"""Filling stops here: above it, only the cheapest channels would still fit, whatever their worth."""

_AHEAD = 4
"""So many steps a stair of the latency may be wide."""


class Costed(Protocol):
    """The part of a channel map that budgets need."""

    groups: tuple[Group, ...]

    def cost_of_counts(self, counts: Counts) -> Cost: ...


@dataclass(frozen=True)
class Bound:
    """An upper bound: `limit` FLOPs (one multiply-add is one), parameters or nanoseconds of latency.

    `share` is the limit over the figure of the target network.
    """

    metric: Metric
    limit: int
    share: float

    def of(self, cost: Cost) -> int:
        """The bounded figure of a cost."""
        return _figure(cost, self.metric)

    @property
    def shown_limit(self) -> int | float:
        """The limit as files have it: a latency in milliseconds."""
        return self.limit / _NANO if self.metric == "latency" else self.limit

    def moved(self, limit: int) -> Bound:
        """A bound of the same figure with another limit."""
        return Bound(self.metric, limit, self.share * limit / self.limit)

    def to_dict(self) -> dict[str, Any]:
        """Document for the files of a run."""
        return {"metric": self.metric, "limit": self.shown_limit, "share": self.share}


@dataclass(frozen=True)
class Budget:
    """One upper bound or several, each of another figure; whatever meets the budget meets all of them."""

    bounds: tuple[Bound, ...]

    @property
    def share(self) -> float:
        """The smallest share of the target network that a bound allows."""
        return min(bound.share for bound in self.bounds)

    def on(self, metric: Metric) -> Bound:
        """The bound on a figure. Raises `KeyError` where there is none."""
        return {bound.metric: bound for bound in self.bounds}[metric]

    def fits(self, cost: Cost) -> bool:
        """Whether a cost is within every bound."""
        return all(bound.of(cost) <= bound.limit for bound in self.bounds)

    def reaches(self, cost: Cost, share: float) -> bool:
        """Whether a cost takes so much of one of the bounds, or more."""
        return any(bound.of(cost) >= share * bound.limit for bound in self.bounds)

    def shares(self, cost: Cost) -> dict[Metric, float]:
        """How much of each bound a cost takes; 1 is all of it."""
        return {bound.metric: bound.of(cost) / bound.limit for bound in self.bounds}

    def at(self, share: float, *, least: Cost) -> Budget:
        """The budget with such a share of every bound, but at least what the smallest network costs."""
        return Budget(tuple(b.moved(max(b.of(least), int(share * b.limit))) for b in self.bounds))

    def with_limit(self, metric: Metric, limit: int) -> Budget:
        """The budget with another limit of one of its figures."""
        return Budget(tuple(b.moved(limit) if b.metric == metric else b for b in self.bounds))

    def to_dict(self) -> dict[str, Any]:
        """Document for the files of a run: of the first bound, and of several all under `bounds`."""
        every = [bound.to_dict() for bound in self.bounds]
        return every[0] if len(every) == 1 else every[0] | {"bounds": every}


def smallest(channels: Costed, bounds: WidthBounds) -> Cost:
    """Cost of the smallest sub-network that the bounds allow."""
    return channels.cost_of_counts(bounds.least)


def resolve(channels: Costed, asked: Asked, bounds: WidthBounds) -> Budget:
    """A budget from shares (at most 1) or absolute amounts; of latency these are texts such as `2ms`.

    Raises `BudgetError` when no sub-network meets one of the bounds, or the target network already meets all.
    """
    if not asked:
        raise BudgetError("no budget: give a bound, such as flops=0.5")
    full = np.array([g.width for g in channels.groups], np.int64)
    whole, least = channels.cost_of_counts(full), smallest(channels, bounds)
    found = tuple(_bound(metric, amount, whole) for metric, amount in asked.items())
    beyond = [_out_of_reach(bound, whole, least) for bound in found if bound.of(least) > bound.limit]
    if beyond:
        raise BudgetError(
            f"no sub-network meets {', nor '.join(beyond)}",
            "ask for that or more, or lower channels.min_share, channels.round_to or channels.groups",
        )
    if all(bound.of(whole) <= bound.limit for bound in found) and 1 not in asked.values():
        met = ", and ".join(
            f"{_has(bound, bound.of(whole))}, within the budget {_shown(bound, bound.limit)}"
            for bound in found
        )
        raise BudgetError(f"nothing to do: the target network {met}")
    return Budget(found)


def _bound(metric: Metric, amount: Amount, whole: Cost) -> Bound:
    if isinstance(amount, str):  # above 1, which is a share
        amount = max(milliseconds(amount) * _NANO, 1 + 1e-9)
    if not 0 < amount < math.inf:
        raise BudgetError(f"a budget is a share or an absolute number above zero, not {metric} {amount}")
    figure = _figure(whole, metric)
    # A share such as 0.29 of 100 must not become 28 because of the last binary digit.
    limit = int(amount * figure * (1 + 1e-12)) if amount <= 1 else int(amount)
    return Bound(metric, limit, limit / figure)


def _out_of_reach(bound: Bound, whole: Cost, least: Cost) -> str:
    share = np.ceil(1e4 * bound.of(least) / bound.of(whole)) / 1e4
    return (
        f"{bound.metric} {_shown(bound, bound.limit)}: the smallest reachable "
        f"{_has(bound, bound.of(least), up=True)}, a share of {share:.4f}"
    )


_NANO = 1_000_000  # nanoseconds in a millisecond
_HAS = {
    "flops": "has {} FLOPs (one multiply-add is one FLOP)",
    "params": "has {} parameters",
    "latency": "takes {}, as predicted",
}


def _figure(cost: Cost, metric: Metric) -> int:
    if metric == "latency":
        assert cost.latency_ns is not None, "a budget of latency needs a channel map that is timed"
        return cost.latency_ns
    return cost.flops if metric == "flops" else cost.params


def _shown(bound: Bound, figure: int, *, up: bool = False) -> str:
    if bound.metric == "latency":
        return numbers.milliseconds(figure / _NANO, digits=4, up=up)
    return numbers.count(figure, digits=4, up=up)


def _has(bound: Bound, figure: int, *, up: bool = False) -> str:
    return _HAS[bound.metric].format(_shown(bound, figure, up=up))


# -- projection: widths at a budget -------------------------------------------------------------------------


def project(channels: Costed, levels: Levels, budget: Budget, bounds: WidthBounds) -> Counts:
    """Kept counts per group: within every bound, and at 98 % of one of them or more where the steps allow.

    `levels[g]` [width of g]: see the head of this file. The longest prefix is found by bisection, as costs
    only grow; where time is what is short, groups then take the steps that cost none. A bound that is met
    anyhow changes nothing.
    """
    groups, sizes = _queue(levels, bounds)

    def fits(first: int) -> bool:
        return budget.fits(channels.cost_of_counts(_after(bounds.least, groups[:first], sizes[:first])))

    low, high = 0, len(groups)
    while low < high:  # the longest prefix within the budget
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    counts = _after(bounds.least, groups[:low], sizes[:low])
    _fill(channels, counts, budget, zip(groups[low:].tolist(), sizes[low:].tolist(), strict=True))
    used = budget.shares(channels.cost_of_counts(counts))
    if used.get("latency") == max(used.values()):
        _take_free(channels, counts, budget, bounds)
    return counts


def _queue(levels: Levels, bounds: WidthBounds) -> tuple[Counts, Counts]:
    """Groups and sizes of all steps above the least widths, in the order in which they join."""
    at, group, size = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for g, level in enumerate(levels):
        edges = np.unique(np.append(np.arange(bounds.least[g], len(level), bounds.step[g]), len(level)))
        steps = np.diff(edges)
        middle = edges[:-1] + (steps - 1) // 2  # a step joins with its middle channel
        at.append(level[middle])
        group.append(np.full(len(steps), g))
        size.append(steps)
    order = np.argsort(np.concatenate(at), kind="stable")
    return np.concatenate(group)[order], np.concatenate(size)[order]


def _after(least: Counts, groups: Counts, sizes: Counts) -> Counts:
    return least + np.bincount(groups, weights=sizes, minlength=len(least)).astype(np.int64)


def _fill(channels: Costed, counts: Counts, budget: Budget, rest: zip[tuple[int, int]]) -> None:
    closed: set[int] = set()
    for group, size in rest:
        if len(closed) == len(counts):
            return
        if group in closed:
            continue
        counts[group] += size
        cost = channels.cost_of_counts(counts)
        if not budget.fits(cost):
            counts[group] -= size
            closed.add(group)
        elif budget.reaches(cost, _FULL_ENOUGH):
            return


def _take_free(channels: Costed, counts: Counts, budget: Budget, bounds: WidthBounds) -> None:
    """Widen groups by up to `_AHEAD` steps where that costs no time: latency has stairs."""
    for group, width in enumerate([g.width for g in channels.groups]):
        now = _figure(channels.cost_of_counts(counts), "latency")
        for steps in range(_AHEAD, 0, -1):
            before = int(counts[group])
            counts[group] = min(before + steps * int(bounds.step[group]), width)
            cost = channels.cost_of_counts(counts)
            if _figure(cost, "latency") <= now and budget.fits(cost):
                break
            counts[group] = before


def uniform_counts(channels: Costed, budget: Budget, bounds: WidthBounds) -> Counts:
    """Kept counts at the budget, the same share of every group."""
    return project(channels, [np.arange(1, g.width + 1) / g.width for g in channels.groups], budget, bounds)
