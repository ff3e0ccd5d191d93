from __future__ import annotations

from typing import Any

import pytest

from jstc.jst.phases import resolve_auto

AUTO = {"search.coarse_budget": "auto", "search.rounds": 2, "search.steps_per_round": 5}


@pytest.mark.parametrize(("steps", "coarse"), [(5, "auto"), (19_989, "auto"), (19_990, 1.0)])
def test_a_long_run_begins_at_the_budget(make_recipe: Any, dataset: Any, steps: int, coarse: Any) -> None:
    finetune = {"finetune.epochs": 1, "finetune.steps_per_epoch": steps}
    assert resolve_auto(make_recipe(AUTO | finetune), dataset).search.coarse_budget == coarse


def test_the_length_is_in_images_not_in_steps(make_recipe: Any, dataset: Any) -> None:
    finetune = {"finetune.epochs": 1, "finetune.steps_per_epoch": 5000}
    recipes = (make_recipe(AUTO | finetune | {"train.batch_size": images}) for images in (16, 64))
    small, large = (resolve_auto(recipe, dataset) for recipe in recipes)
    assert (small.search.coarse_budget, large.search.coarse_budget) == ("auto", 1.0)


def test_a_share_that_is_given_holds_at_any_length(make_recipe: Any, dataset: Any) -> None:
    recipe = make_recipe(AUTO | {"search.coarse_budget": 0.4, "finetune.epochs": 100_000})
    assert resolve_auto(recipe, dataset) is recipe


def test_the_search_goes_by_it(searched: Any) -> None:
    short, long = (searched(AUTO | {"finetune.steps_per_epoch": steps}).history for steps in (5, 20_000))
    assert short[0]["flops"] < long[0]["flops"]
