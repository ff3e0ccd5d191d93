"""The section `search` of a recipe: rounds, parts that can be switched, when it ends. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from jstc.recipe.sections import Fraction, Section, Share, as_tuple, require_rising

__all__ = ["GIVEN_WEIGHTS", "IdleKeyError", "SearchSettings", "with_defaults_for_given_weights"]

Range = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], BeforeValidator(as_tuple)]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(as_tuple)]

# Parts of the search that are off by default.

_OF_GATES = ("gate_lr", "gate_steps")
_OFF = (
    ("perturbation", "the perturbation", "", ("sigma", "noise_period")),
    ("importance", "learned channel weights", " to learned, weighted or weighted_taylor", _OF_GATES),
    (
        "thresholds",
        "the policy",
        " to threshnet",
        ("threshold_grid", "threshnet_lr", "entropy_bonus", "candidates", "candidate_images"),
    ),
)
"""The switch of each part, in words, what it is set to, and the keys that do nothing without."""


class IdleKeyError(ValueError):
    """A key of a section that does nothing as the others are; `key` is its name there."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class SearchSettings(Section):
    """Joint search-and-training."""

    rounds: NonNegativeInt = Field(
        40,
        description="Rounds at most: a search whose plans no longer differ ends before, and its steps are "
        "finetune's. 0, for given weights: nothing is trained; the network is cut as it is, and mended.",
    )
    epochs_per_round: PositiveFloat | Literal["auto"] = Field(
        "auto",
        description="Epochs of training in a round; auto: 0.25 where the run then trains on 320,000 images "
        "or more (counted as often as seen), otherwise 1.",
    )
    steps_per_round: PositiveInt | None = Field(
        None, description="Training steps in a round; overrides epochs_per_round."
    )
    # what channels and groups are chosen by
    perturbation: bool = Field(
        False,
        description="Gumbel noise on what channels rank by; off: not shown to help "
        "(docs/research/accuracy.md).",
    )
    thresholds: Literal["common", "threshnet", "fixed"] = Field(
        "common",
        description="How much each group keeps: common, one threshold for all; threshnet, a policy that "
        "learns one for each (off: not shown to help, docs/research/accuracy.md); fixed, fixed_thresholds.",
    )
    fixed_thresholds: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="With thresholds: fixed, the threshold of each group by its name; others share one.",
    )
    importance: Literal["magnitude", "taylor", "random", "learned", "weighted", "weighted_taylor"] = Field(
        "magnitude",
        description="What channels rank by: magnitude, norms of their weights; taylor (the default where "
        "weights are given), what the network would lose with them; learned, gates that are trained (off: "
        "not shown to help, docs/research/accuracy.md); weighted, weighted_taylor, such gates times either; "
        "random, to compare with.",
    )
    importance_images: PositiveInt = Field(
        512, description="Training images that taylor and weighted_taylor measure on."
    )
    coarse_to_fine: bool = Field(
        True,
        description="Coarse rounds first: one threshold for all groups, large sigma and tau, less budget.",
    )
    # how plans are drawn
    coarse_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.85, description="Share of coarse rounds; 0 where weights are given."
    )
    coarse_budget: Share | Literal["auto"] = Field(
        "auto",
        description="Share of the budget that sub-networks of coarse rounds have; auto: 1 in runs that train "
        "on 320,000 images or more (counted as often as seen, in rounds of 0.25 epochs where their length is "
        "auto), otherwise all groups half as wide, where that is 0.35 to 0.8 of it, else 0.52; 1 where "
        "weights are given.",
    )
    sigma: Range = Field(
        (1.0, 0.1),
        description="With perturbation: scale of the noise, first to last round; 0.1 with given weights.",
    )
    noise_period: PositiveInt = Field(
        40, description="With perturbation: rounds that a channel keeps its noise; 1: drawn anew every round."
    )
    recency_bonus: NonNegativeFloat = Field(
        12.0,
        description="What having just been trained adds to a channel's score, so that successive plans share "
        "most channels; 1 where weights are given.",
    )
    tau: PositiveRange = Field(
        (8.0, 4.0), description="Temperature of the channels' probabilities, first to last round."
    )
    threshold_grid: Annotated[tuple[Fraction, ...], Field(min_length=2), BeforeValidator(as_tuple)] = Field(
        (0.6, 0.65, 0.7, 0.75, 0.8, 0.85), description="With threshnet: the thresholds that it chooses from."
    )
    residual_threshold_offset: NonNegativeFloat = Field(
        0.0,
        description="By how much the thresholds of residual streams are raised in their logit, also where a "
        "policy chooses them; not in rounds below the budget or with thresholds: fixed; off: not shown to "
        "help (docs/research/accuracy.md).",
    )
    # how gates and the policy learn
    gate_lr: PositiveFloat = Field(0.02, description="With learned importance: learning rate of the gates.")
    gate_steps: PositiveInt = Field(
        1, description="With learned importance: steps of the gates per round, on search-validation batches."
    )
    candidates: PositiveInt = Field(
        3, description="With threshnet: plans of a fine round, of which the best is trained."
    )
    candidate_images: PositiveInt = Field(
        512, description="With threshnet: search-validation images that judge each."
    )
    threshnet_lr: PositiveFloat = Field(0.3, description="With threshnet: its learning rate.")
    entropy_bonus: NonNegativeFloat = Field(
        0.01, description="With threshnet: weight of its entropy, which keeps its choice open."
    )
    # how sub-networks are judged
    archive_size: PositiveInt = Field(4, description="Best plans of the rounds, judged again at the end.")
    recalibration_images: PositiveInt = Field(
        1024, description="Training images for batch-norm statistics before a sub-network is judged."
    )
    eval_images: PositiveInt = Field(
        5000, description="Search-validation images for the accuracy of a round; all of them at the end."
    )
    eval_every: PositiveInt = Field(
        4, description="Rounds below the budget are judged once in so many; those at the budget always."
    )
    reconstruction_images: NonNegativeInt = Field(
        512,
        description="With rounds: 0, training images on which the layers of the cut network are fitted to "
        "what the whole one gives; 0: they stay as they were cut.",
    )
    compile: bool = Field(
        False, description="torch.compile for rounds that train a network as wide as the round before."
    )
    early_stop_overlap: Annotated[float, Field(gt=0, le=1)] = Field(
        0.98, description="The search ends when successive plans overlap by so much (Jaccard, mean)."
    )
    early_stop_window: PositiveInt = Field(5, description="Fine rounds over which that mean is taken.")

    @field_validator("threshold_grid")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return require_rising(value, "thresholds", [0.6, 0.7, 0.8])

    @model_validator(mode="after")
    def _parts_are_said(self) -> SearchSettings:
        for switch, what, values, keys in _OFF:
            idle = [key for key in keys if key in self.model_fields_set]
            if idle and switch not in self.model_fields_set:
                raise IdleKeyError(
                    idle[0], f"this is of {what}, off by default: set search.{switch}{values} as well"
                )
        return self


# A search from trained weights.

GIVEN_WEIGHTS: Mapping[str, Any] = MappingProxyType(
    {
        "importance": "taylor",
        "recency_bonus": 1.0,
        "coarse_share": 0.0,
        "coarse_budget": 1.0,
    }
)
"""Defaults of `search` that are others where `weights` are given. Channels of a trained network are not each
other's equals: those that it would miss stay, and one left out for some rounds is still worth something."""

_GIVEN_SIGMA = (0.1, 0.1)
"""The default of `sigma` then, where a perturbation is asked for: what was measured says more than noise."""


def with_defaults_for_given_weights(search: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section `search` that were given, with the defaults of a search from trained weights."""
    found = {**GIVEN_WEIGHTS, **search}
    if "importance" not in search and any(key in search for key in _OF_GATES):
        del found["importance"]  # so that it is missed where it belongs, with the line of the key
    if found.get("perturbation") is True:
        found = {"sigma": _GIVEN_SIGMA, **found}
    return found
