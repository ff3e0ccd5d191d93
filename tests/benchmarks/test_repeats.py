"""The benchmark that runs everything twice: what it finds, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.robustness.repeats import __main__ as repeats
from jstc.core import files
from jstc.errors import StageError
from jstc.recipe.schema import Recipe
from jstc.runs import commands

CASE = repeats.Case("resnet18", 8, "float32")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """Makes runs of two tensors and a file, of which `changes` says what is other in the second."""

    def prepare(which: str = "second", **changes: Any) -> None:
        def fake(recipe: Recipe, *, out: Path, **options: Any) -> Path:
            found = {"weight": 0.5, "file": 0.9} | (changes if out.name == which else {})
            (out / "slim").mkdir(parents=True)
            (out / "export").mkdir()
            weights = {
                "conv.weight": torch.full((2,), found["weight"]),
                "norm.running_var": torch.ones(2) * 1e6,
            }
            save_file(weights, out / "slim" / "model.safetensors")
            figures = {"accuracy": 0.9, "unreached": {"share": 0.25}}
            files.write_json(out / "slim" / "result.json", figures)
            files.write_json(out / "export" / "result.json", {"files": [{"accuracy": found["file"]}]})
            return out

        monkeypatch.setattr(commands, "run", fake)

    return prepare


def test_the_same_twice_is_sound(run, tmp_path: Path) -> None:
    run()
    found = repeats.compared(CASE, tmp_path)
    assert found.sound and (found.compared, found.largest, found.unreached) == (2, 0.5, 0.25)
    row = repeats.table([found]).splitlines()[-1]
    assert row.startswith("| resnet18 | 8 | float32 | 2 of 2 | 0.5 | 90.00 % | 90.00 % | 25.0 % |")


def test_what_differs_is_no_more_sound(run, tmp_path: Path) -> None:
    run(weight=0.5000001)
    found = repeats.compared(CASE, tmp_path / "bits")
    assert not found.sound and found.different == ("slim/model.safetensors:conv.weight",)
    assert "| 1 of 2 |" in repeats.table([found])
    run("first", file=0.89)
    found = repeats.compared(CASE, tmp_path / "file")
    assert not found.sound and not found.different


def test_absurd_weights_and_failures_are_no_more_sound(run, tmp_path: Path, monkeypatch) -> None:
    run(weight=1e33)
    assert not repeats.compared(CASE, tmp_path / "absurd").sound

    def fails(*args: Any, **options: Any) -> None:
        raise StageError("it went wrong", details=["here"])

    monkeypatch.setattr(commands, "run", fails)
    found = repeats.compared(CASE, tmp_path / "failed")
    assert not found.sound and "| it went wrong; here |" in repeats.table([found])


def test_its_recipe_is_that_of_the_quickstart_with_another_network() -> None:
    found = repeats.Case("dilated", 32, "bfloat16", rounds=3).recipe()
    assert found.model == repeats.DILATED and found.channels.round_to == 8
    assert (found.input.image_size, found.train.precision, found.search.rounds) == (32, "bfloat16", 3)
