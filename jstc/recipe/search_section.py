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
    model_validator,
)

from jstc.recipe.sections import Section, Share, as_tuple

__all__ = ["GIVEN_WEIGHTS", "IdleKeyError", "SearchSettings", "with_defaults_for_given_weights"]

Range = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], BeforeValidator(as_tuple)]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(as_tuple)]

# Parts of the search that can be off.

_OF_GATES = ("gate_lr", "gate_steps")
_PARTS = (
    ("perturbation", "the perturbation", "", ("sigma", "noise_period")),
    ("importance", "gates", " to learned, weighted or weighted_taylor", _OF_GATES),
    ("thresholds", "the policy", " to threshnet", ("threshnet_lr", "candidates", "candidate_images")),
)
"""The switch of each part, in words, what it is set to, and the keys that do nothing without."""

_WITHOUT: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "perturbation": (False,),
        "importance": ("gradient", "magnitude", "taylor", "random"),
        "thresholds": ("common", "fixed"),
    }
)
"""What a switch is set to where its part is off."""

_LEAN: Mapping[str, Any] = MappingProxyType(
    {"perturbation": False, "thresholds": "common", "importance": "magnitude"}
)
"""Defaults of `method: lean`; from trained weights channels rank by taylor."""


class IdleKeyError(ValueError):
    """A key of a section that does nothing as the others are; `key` is its name there."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class SearchSettings(Section):
    """Joint search-and-training."""

    method: Literal["joint", "lean"] = Field(
        "joint",
        description="joint: all four parts, which are learned channel weights, perturbation, the policy and "
        "coarse to fine. lean: one threshold for all groups, no perturbation, channels by norms (by taylor "
        "where weights are given), less to do. Keys that switch a part go before it.",
    )
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
        True,
        description="Random perturbation: of widths where weights are given (off: one group at a time), of "
        "what channels rank by in rounds from scratch. Off with method: lean.",
    )
    thresholds: Literal["common", "threshnet", "fixed"] = Field(
        "threshnet",
        description="How much each group keeps: threshnet, a policy that learns one for each; common (with "
        "method: lean), one threshold for all; fixed, fixed_thresholds.",
    )
    fixed_thresholds: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="With thresholds: fixed, the threshold of each group by its name; others share one.",
    )
    importance: Literal[
        "gradient", "magnitude", "taylor", "random", "learned", "weighted", "weighted_taylor"
    ] = Field(
        "gradient",
        description="What channels rank by: gradient, channel weights that the gradients of the training "
        "steps teach (where weights are given they begin with the order in which channels explain what the "
        "layers after them miss, else with magnitude); magnitude, norms "
        "of their weights; taylor, what the network would lose with them; learned, gates that are trained in "
        "turn with the weights; weighted, weighted_taylor, such gates times either; random, to compare with.",
    )
    importance_images: PositiveInt = Field(
        512,
        description="Training images that gradient, taylor and weighted_taylor measure on, of given weights.",
    )
    coarse_to_fine: bool = Field(
        True,
        description="Coarse rounds first: large sigma and tau, less budget, one plan each; of given weights, "
        "candidates first that move groups near each other together.",
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
        description="With perturbation: its scale, from first to last; with given weights from 1 to "
        "0.25 in the width search, and 0.1 in rounds where there is none.",
    )
    noise_period: PositiveInt = Field(
        40,
        description="With perturbation, from scratch: rounds that a channel keeps its noise; 1: drawn anew "
        "every round.",
    )
    recency_bonus: NonNegativeFloat = Field(
        12.0,
        description="What having just been trained adds to a channel's score, so that successive plans share "
        "most channels; 1 where weights are given.",
    )
    tau: PositiveRange = Field(
        (8.0, 4.0),
        description="Temperature of the channels' probabilities, first to last round; the last one "
        "throughout where widths were searched before the rounds.",
    )
    residual_threshold_offset: NonNegativeFloat = Field(
        0.0,
        description="By how much the thresholds of residual streams are raised, in their logit, or where a "
        "policy chooses them in their logarithm; not in rounds below the budget or with thresholds: fixed; "
        "off: not shown to help (docs/research/accuracy.md).",
    )
    # how gates and the policy learn
    gate_lr: PositiveFloat = Field(0.02, description="With learned importance: learning rate of the gates.")
    gate_steps: PositiveInt = Field(
        1, description="With learned importance: steps of the gates per round, on search-validation batches."
    )
    candidates: PositiveInt = Field(
        3,
        description="With threshnet: plans that are judged without training; where weights are given, so "
        "many in all before the first round (160), otherwise in each fine round, which trains the best.",
    )
    candidate_images: PositiveInt = Field(
        512, description="With threshnet: search-validation images that judge each."
    )
    threshnet_lr: PositiveFloat = Field(
        0.5, description="With threshnet: how far it goes, each time it learns, to the best of what it drew."
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
        description="With given weights: training images on which the layers of the cut network are fitted "
        "to what the whole one gives, before anything is trained; 0: they stay as they were cut.",
    )
    compile: bool = Field(
        False, description="torch.compile for rounds that train a network as wide as the round before."
    )
    early_stop_overlap: Annotated[float, Field(gt=0, le=1)] = Field(
        0.98, description="The search ends when successive plans overlap by so much (Jaccard, mean)."
    )
    early_stop_window: PositiveInt = Field(5, description="Fine rounds over which that mean is taken.")

    @model_validator(mode="before")
    @classmethod
    def _of_method(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        lean = section.get("method") == "lean"
        for switch, what, values, keys in _PARTS:
            idle = [key for key in keys if key in section]
            if idle and switch not in section and (lean or keys == _OF_GATES):
                off = "off with method: lean" if lean else "off by default"
                raise IdleKeyError(idle[0], f"this is of {what}, {off}: set search.{switch}{values} as well")
        return {**_LEAN, **section} if lean else section


# A search from trained weights.

GIVEN_WEIGHTS: Mapping[str, Any] = MappingProxyType(
    {
        "recency_bonus": 1.0,
        "coarse_share": 0.0,
        "coarse_budget": 1.0,
    }
)
"""Defaults of `search` that are others where `weights` are given. Channels of a trained network are not each
other's equals: those that it would miss stay, and one left out for some rounds is still worth something."""

_CANDIDATES = 160
_SIGMA = (1.0, 0.25)
_SIGMA_OF_CHANNELS = (0.1, 0.1)
"""Where the policy is off, and with it the width search, what was measured says more than noise."""


def with_defaults_for_given_weights(search: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section `search` that were given, with the defaults of a search from trained weights."""
    lean = search.get("method") == "lean"
    found = {**GIVEN_WEIGHTS, **({"importance": "taylor"} if lean else {}), **search}
    if "importance" not in search and any(key in search for key in _OF_GATES):
        found.pop("importance", None)  # so that it is missed where it belongs, with the line of the key
    on = {s: found.get(s) not in _WITHOUT[s] and (s in found or not lean) for s in _WITHOUT}
    if on["thresholds"]:
        found = {"candidates": _CANDIDATES, **found}
    if on["perturbation"]:
        found = {"sigma": _SIGMA if on["thresholds"] else _SIGMA_OF_CHANNELS, **found}
    return found
