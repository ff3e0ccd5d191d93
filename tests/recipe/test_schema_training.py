"""Optimisers, schedules and other features in a recipe: defaults of their own, and what goes with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jstc.errors import RecipeError
from jstc.recipe import loading
from jstc.recipe.schema import FinetuneSettings, Recipe, TrainSettings
from jstc.recipe.sections import Section


def made(*overrides: str) -> Recipe:
    return loading.from_flags({"model": "m", "dataset": "d", "flops": 0.5}, overrides)


def test_the_usual_training_is_as_it_was() -> None:
    settings = TrainSettings()
    assert (settings.optimizer, settings.lr, settings.momentum, settings.nesterov) == ("sgd", 0.1, 0.9, True)
    assert (settings.schedule, settings.weight_decay, settings.accumulate) == ("cosine", 5e-4, 1)
    assert (settings.mixup, settings.cutmix, settings.label_smoothing) == (0.0, 0.0, 0.0)
    recipe = made()
    assert (recipe.finetune.ema_decay, recipe.finetune.compile, recipe.tensorboard) == (None, False, False)


OWN_DEFAULTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "adamw": (
        ("train.optimizer=adamw",),
        {"lr": 1e-3, "weight_decay": 1e-2, "betas": (0.9, 0.999), "momentum": None, "nesterov": None},
    ),
    "adamw with a rate": (("train.optimizer=adamw", "train.lr=0.003"), {"lr": 0.003, "weight_decay": 1e-2}),
    "step": (("train.schedule=step",), {"milestones": (0.5, 0.75), "gamma": 0.1, "lr": 0.1}),
    "milestones": (
        ("train.schedule=step", "train.milestones=[0.3, 0.6, 0.9]", "train.gamma=0.2"),
        {"milestones": (0.3, 0.6, 0.9), "gamma": 0.2},
    ),
}


@pytest.mark.parametrize(("overrides", "expected"), OWN_DEFAULTS.values(), ids=OWN_DEFAULTS)
def test_each_choice_has_its_own_defaults_and_survives_a_file(
    overrides: tuple[str, ...], expected: dict[str, Any], tmp_path: Path
) -> None:
    recipe = made(*overrides)
    assert {key: getattr(recipe.train, key) for key in expected} == expected
    (tmp_path / "r.yaml").write_text(loading.to_yaml(recipe))
    assert loading.load(tmp_path / "r.yaml") == recipe


WRONG = {
    "momentum of adamw": (
        ("train.optimizer=adamw", "train.momentum=0.9"),
        "--set train.momentum: adamw has no momentum; leave it out, or set train.optimizer to sgd",
    ),
    "nesterov of adamw": (("train.optimizer=adamw", "train.nesterov=true"), "adamw has no nesterov"),
    "betas of sgd": (("train.betas=[0.9, 0.99]",), "sgd has no betas; .* set train.optimizer to adamw"),
    "no momentum at all": (("train.momentum=null",), "null, but sgd needs it"),
    "one beta": (("train.optimizer=adamw", "train.betas=[0.9]"), "expected a list of 2"),
    "a beta of 1": (("train.optimizer=adamw", "train.betas=[0.9, 1.0]"), "below 1"),
    "an optimiser that is not there": (("train.optimizer=lion",), 'expected sgd or adamw, got "lion"'),
    "milestones of the cosine": (("train.milestones=[0.5]",), "cosine has no milestones; .* to step"),
    "gamma of the cosine": (("train.gamma=0.5",), "cosine has no gamma"),
    "milestones that fall": (
        ("train.schedule=step", "train.milestones=[0.7, 0.3]"),
        "shares of the training that rise",
    ),
    "milestones in epochs": (("train.schedule=step", "train.milestones=[30]"), "above 0 and below 1"),
    "no milestones": (("train.schedule=step", "train.milestones=[]"), "such as \\[0.5, 0.75\\]"),
    "more parts than images": (
        ("train.batch_size=8", "train.accumulate=16"),
        "--set train.accumulate: a batch of 8 images \\(train.batch_size\\) has no 16 parts",
    ),
    "a negative alpha": (("train.mixup=-0.1",), "expected a number at least 0 and at most 1000"),
    "an alpha that cannot be drawn": (("train.cutmix=1e-30",), "from 0.001 to 1000"),
    "an endless alpha": (("train.mixup=.inf",), "at most 1000"),
    "an average that never moves": (("finetune.ema_decay=1",), "above 0 and below 1"),
    "the average in another section": (("train.ema_decay=0.9",), "did you mean finetune.ema_decay"),
    "a short name of a format": (("train.precision=fp16",), "bfloat16 or float16"),
}


@pytest.mark.parametrize(("overrides", "message"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        made(*overrides)


def test_the_line_of_the_mistake_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: m\ndataset: d\nflops: 0.5\ntrain:\n  optimizer: adamw\n  lr: 0.001\n  momentum: 0.9\n"
    )
    with pytest.raises(RecipeError, match=r"r\.yaml, line 7: train\.momentum: adamw has no momentum"):
        loading.load(path)


def test_every_key_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    sections: dict[str, type[Section]] = {"train": TrainSettings, "finetune": FinetuneSettings}
    keys = [f"{name}.{key}" for name, section in sections.items() for key in section.model_fields]
    assert [key for key in keys if f"| `{key}` |" not in text] == []
