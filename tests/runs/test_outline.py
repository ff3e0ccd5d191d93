"""A run says what it is going to do before its first training, whichever that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jstc.recipe import loading
from jstc.runs import commands
from tests.runs.test_given import QUICKLY


@pytest.mark.parametrize(("flops", "heads"), [("0.5", 1), ("0.8,0.5", 0)])
def test_a_run_that_goes_on_after_its_search_begins_with_it_but_no_single_budget_does(
    network: str, tmp_path: Path, messages: Any, flops: str, heads: int
) -> None:
    recipe = loading.from_flags({"model": network, "dataset": "digits", "flops": flops}, QUICKLY)
    commands.run(recipe, out=tmp_path / "r", only=["search"])
    commands.run(recipe, out=tmp_path / "r", only=["finetune"], progress=messages)
    assert [text.split()[0] for text in messages.texts].count("network") == heads
