"""The limits of single groups hold in every plan that a search may visit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jstc.channels import ChannelMap
from jstc.errors import BudgetError, RecipeError
from jstc.search import space
from jstc.search.space import Space


def counts(channels: ChannelMap, own: Space, seed: int) -> list[int]:
    random = np.random.default_rng(seed)
    levels = [np.sort(random.random(g.width)) * random.uniform(0.2, 1) for g in channels.groups]
    order = [random.permutation(group.width) for group in channels.groups]
    return channels.counts(own.plan(order, levels)).tolist()


def test_plans_keep_to_the_limits_of_their_groups(channels: ChannelMap, make_recipe: Any) -> None:
    groups = {"wide": {"round_to": 3}, "last": {"min_share": 0.8, "round_to": 1}}
    own = Space.of(channels, make_recipe({"channels.groups": groups, "flops": 0.7}))
    found = np.array([counts(channels, own, seed) for seed in range(20)])
    stem, wide, last = found.T
    assert not (wide % 3).any() and len(set(wide.tolist())) > 1
    assert last.min() >= 13
    assert stem.min() < 8


def test_limits_out_of_reach_and_groups_that_are_not_there(channels: ChannelMap, make_recipe: Any) -> None:
    whole = {name: {"min_share": 1.0} for name in ("stem", "wide", "last")}
    with pytest.raises(BudgetError, match=r"no sub-network meets flops .* channels\.groups"):
        space.limit(channels, make_recipe({"channels.groups": whole}))
    with pytest.raises(RecipeError, match=r"channels.groups: 'wise' .* such as 'wide'"):
        space.limit(channels, make_recipe({"channels.groups": {"wise": {"min_width": 2}}}))
