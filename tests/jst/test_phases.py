from __future__ import annotations

import itertools
from typing import Any

import pytest

from jstc.jst.phases import Phase, growth_of

SETTINGS = {
    "search.rounds": 10,
    "search.coarse_share": 0.25,
    "search.coarse_budget": 0.4,
    "search.sigma": [0.8, 0.2],
    "search.tau": [2.0, 0.5],
}


def phases(make_recipe: Any, **changes: Any) -> list[Phase]:
    search = make_recipe(SETTINGS | {f"search.{key}": value for key, value in changes.items()}).search
    return [growth_of(search).at(round_) for round_ in range(search.rounds)]


def test_coarse_rounds_come_first_at_the_first_values(make_recipe: Any) -> None:
    found = phases(make_recipe)
    assert [(each.sigma, each.tau, each.coarse) for each in found[:3]] == [(0.8, 2.0, True)] * 3
    assert not any(each.coarse for each in found[3:])


def test_then_sigma_and_tau_fall_to_their_last_values(make_recipe: Any) -> None:
    fine = phases(make_recipe)[2:]
    for first, second in itertools.pairwise(fine):
        assert first.sigma - second.sigma == pytest.approx(0.6 / 7)
        assert first.tau / second.tau == pytest.approx(4 ** (1 / 7))
    assert (fine[-1].sigma, fine[-1].tau) == pytest.approx((0.2, 0.5))


def test_without_coarse_to_fine_every_round_is_alike(make_recipe: Any) -> None:
    found = phases(make_recipe, coarse_to_fine=False)
    assert set(found) == {Phase(0.5, 1.0, coarse=False)}


@pytest.mark.parametrize("coarse_to_fine", [True, False])
def test_rounds_after_an_exploration_are_all_at_what_it_ended_with(
    make_recipe: Any, coarse_to_fine: bool
) -> None:
    search = make_recipe(SETTINGS | {"search.coarse_to_fine": coarse_to_fine}).search
    growth = growth_of(search, explored=True)
    assert {(growth.at(round_).sigma, growth.at(round_).tau) for round_ in range(10)} == {(0.0, 0.5)}
    assert growth.at(0).coarse is coarse_to_fine
    assert growth.end() == growth_of(search).end()


@pytest.mark.parametrize("coarse_to_fine", [True, False])
def test_without_perturbation_sigma_is_zero_and_tau_the_same(make_recipe: Any, coarse_to_fine: bool) -> None:
    with_noise = phases(make_recipe, coarse_to_fine=coarse_to_fine)
    without = phases(make_recipe, coarse_to_fine=coarse_to_fine, perturbation=False)
    assert {each.sigma for each in without} == {0.0}
    assert [each.tau for each in without] == [each.tau for each in with_noise]


@pytest.mark.parametrize(("share", "coarse"), [(0.0, 0), (1.0, 10)])
def test_all_rounds_may_be_fine_or_coarse(make_recipe: Any, share: float, coarse: int) -> None:
    assert [each.coarse for each in phases(make_recipe, coarse_share=share)].count(True) == coarse


def test_coarse_rounds_are_below_the_budget_and_fine_ones_are_not(make_recipe: Any) -> None:
    assert [each.below for each in phases(make_recipe)] == [True] * 3 + [False] * 7
    assert not any(each.below for each in phases(make_recipe, coarse_budget=1.0))


@pytest.mark.parametrize(
    "changes", [{"coarse_budget": 1.0}, {"coarse_to_fine": False}, {"coarse_share": 0.0}], ids=str
)
def test_without_smaller_coarse_rounds_every_round_has_the_whole_budget(
    make_recipe: Any, changes: dict[str, Any]
) -> None:
    assert not any(each.below for each in phases(make_recipe, **changes))
