"""The typed recipe: everything that decides what a run does. No torch here.

Every command-line flag has a key here; every default is written here or in `recipe_settings`, nowhere else.
"""

from __future__ import annotations

import itertools
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

from jstc.recipe.amounts import Amount, Metric, budget_label, parse_amount, parse_amounts, parse_latencies
from jstc.recipe.sections import (
    BenchSettings,
    ChannelSettings,
    CheckpointSettings,
    ExportSettings,
    FinetuneSettings,
    Fraction,
    GroupSettings,
    InputSettings,
    LatencySettings,
    OptionalPath,
    Precision,
    Share,
    Strict,
    TrainSettings,
    as_tuple,
    require_rising,
)

__all__ = [
    "GIVEN_WEIGHTS",
    "Amounts",
    "BenchSettings",
    "ChannelSettings",
    "CheckpointSettings",
    "ExportSettings",
    "FinetuneSettings",
    "GroupSettings",
    "IdleKeyError",
    "InputSettings",
    "LatencySettings",
    "Precision",
    "Recipe",
    "SearchSettings",
    "TrainSettings",
    "budget_label",
    "parse_amount",
    "parse_amounts",
]

Pair = tuple[NonNegativeFloat, NonNegativeFloat]


Amounts = Annotated[float | tuple[float, ...] | None, BeforeValidator(parse_amounts)]
Latencies = Annotated[float | str | tuple[float | str, ...] | None, BeforeValidator(parse_latencies)]
Range = Annotated[Pair, BeforeValidator(as_tuple)]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(as_tuple)]


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
"""Likewise of a perturbation, where one is asked for."""


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
"""Parts of the search that are off by default: the switch, in words, what it is set to, and the keys that do
nothing without."""


class IdleKeyError(ValueError):
    """A key of a section that does nothing as the others are; `key` is its name there."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class SearchSettings(Strict):
    """Joint search-and-training."""

    rounds: PositiveInt = 40
    epochs_per_round: PositiveFloat | Literal["auto"] = Field(
        "auto",
        description="auto: 0.25 where the run then trains on 320,000 images or more (counted as often as "
        "seen), otherwise 1",
    )
    steps_per_round: PositiveInt | None = Field(None, description="overrides epochs_per_round")
    # the four parts, each switchable
    perturbation: bool = Field(
        False,
        description="Gumbel noise on what channels rank by; off: not shown to help "
        "(docs/research/accuracy.md)",
    )
    thresholds: Literal["common", "threshnet", "fixed"] = Field(
        "common",
        description="how much each group keeps: common, one threshold for all; threshnet, a policy that "
        "learns one for each (off: not shown to help, docs/research/accuracy.md); fixed, fixed_thresholds",
    )
    fixed_thresholds: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description="threshold per group for thresholds: fixed; others share one"
    )
    importance: Literal["magnitude", "taylor", "random", "learned", "weighted", "weighted_taylor"] = Field(
        "magnitude",
        description="what channels rank by: magnitude, norms of their weights; taylor (the default where "
        "weights are given), what the network would lose with them; learned, gates that are trained (off: "
        "not shown to help, docs/research/accuracy.md); weighted, weighted_taylor, such gates times either",
    )
    importance_images: PositiveInt = Field(
        512, description="training images behind taylor and weighted_taylor"
    )
    coarse_to_fine: bool = True
    # sampler
    coarse_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.85, description="share of coarse rounds; 0 where weights are given"
    )
    coarse_budget: Share | Literal["auto"] = Field(
        "auto",
        description="share of the budget that sub-networks of coarse rounds have; auto: 1 in runs that train "
        "on 320,000 images or more (counted as often as seen, in rounds of 0.25 epochs where their length is "
        "auto), otherwise all groups half as wide, where that is 0.35 to 0.8 of it, else 0.52; 1 where "
        "weights are given",
    )
    sigma: Range = Field(
        (1.0, 0.1),
        description="scale of the Gumbel perturbation, first to last round; 0.1 where weights are given",
    )
    noise_period: PositiveInt = Field(
        40, description="rounds that a channel's perturbation lasts; 1: drawn anew every round"
    )
    recency_bonus: NonNegativeFloat = Field(
        12.0,
        description="what having just been trained adds to a channel's score; 1 where weights are given",
    )
    tau: PositiveRange = Field(
        (8.0, 4.0), description="temperature of the probabilities, first to last round"
    )
    threshold_grid: Annotated[tuple[Fraction, ...], BeforeValidator(as_tuple), Field(min_length=2)] = (
        0.6, 0.65, 0.7, 0.75, 0.8, 0.85,
    )  # fmt: skip
    residual_threshold_offset: NonNegativeFloat = Field(
        0.0,
        description="by how much the thresholds of residual streams are raised in their logit, also where a "
        "policy chooses them; not in rounds below the budget or with thresholds: fixed; off: not shown to "
        "help (docs/research/accuracy.md)",
    )
    # learning rates of what is searched
    gate_lr: PositiveFloat = 0.02
    gate_steps: PositiveInt = Field(1, description="steps on search-validation batches per round")
    candidates: PositiveInt = Field(
        3, description="with threshnet: plans of a fine round, the best is trained"
    )
    candidate_images: PositiveInt = Field(512, description="with threshnet: images that judge each")
    threshnet_lr: PositiveFloat = 0.3
    entropy_bonus: NonNegativeFloat = 0.01
    # judging
    archive_size: PositiveInt = 4
    recalibration_images: PositiveInt = 1024
    eval_images: PositiveInt = 5000
    eval_every: PositiveInt = Field(
        4, description="rounds below the budget are judged once in so many; those at the budget always"
    )
    compile: bool = Field(
        False, description="torch.compile for rounds that train a network as wide as the round before"
    )
    early_stop_overlap: Annotated[float, Field(gt=0, le=1)] = 0.98
    early_stop_window: PositiveInt = 5

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

    @property
    def learns_gates(self) -> bool:
        """Whether channels rank by gates, which then are trained."""
        return self.importance in ("learned", "weighted", "weighted_taylor")

    @property
    def measures_losses(self) -> bool:
        """Whether channels rank by what the network as it was given would lose with them."""
        return self.importance in ("taylor", "weighted_taylor")


class Recipe(Strict):
    """One run."""

    model: str
    dataset: str
    data: OptionalPath = None
    weights: OptionalPath = None
    cifar: bool = False
    flops: Amounts = Field(None, description="a budget, or a list of several that share one search")
    params: Amounts = Field(None, description="the same in parameters, instead of flops")
    latency: Latencies = Field(
        None,
        description="the same in onnxruntime's time for a batch, such as 2ms, or a share of the target's",
    )
    latency_on: LatencySettings = LatencySettings()
    baseline: bool = False
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: NonNegativeInt = Field(0, description="torch's CPU threads; 0: torch's own choice")
    tensorboard: bool = Field(False, description="also write the histories for TensorBoard")
    input: InputSettings = InputSettings()
    channels: ChannelSettings = ChannelSettings()
    train: TrainSettings = TrainSettings()
    search: SearchSettings = SearchSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    export: ExportSettings = ExportSettings()
    bench: BenchSettings = BenchSettings()

    @model_validator(mode="before")
    @classmethod
    def _for_given_weights(cls, document: Any) -> Any:
        if not isinstance(document, dict) or document.get("weights") is None:
            return document
        search = document.get("search")
        if search is not None and not isinstance(search, dict):
            return document
        said = search or {}
        search = {**GIVEN_WEIGHTS, **said}
        if "importance" not in said and any(key in said for key in _OF_GATES):
            del search["importance"]  # so that it is missed where it belongs, with the line of the key
        if search.get("perturbation") is True:  # what was measured says more than noise
            search = {"sigma": _GIVEN_SIGMA, **search}
        return document | {"search": search}

    @model_validator(mode="after")
    def _one_budget(self) -> Recipe:
        given = self._given_budgets
        if not given:
            raise ValueError(
                "no budget: a recipe needs the key flops, params or latency, "
                "`jstc search` the option --flops, --params or --latency"
            )
        if len(given) > 1:
            raise ValueError("give one budget: either flops or params or latency")
        return self

    @property
    def _given_budgets(self) -> dict[Metric, Any]:
        found: dict[Metric, Any] = {"flops": self.flops, "params": self.params, "latency": self.latency}
        return {metric: amounts for metric, amounts in found.items() if amounts is not None}

    @property
    def budgets(self) -> tuple[tuple[Metric, Amount], ...]:
        """The metric and every amount asked for, from the largest number to the smallest."""
        [(metric, amounts)] = self._given_budgets.items()
        return tuple((metric, amount) for amount in (amounts if isinstance(amounts, tuple) else (amounts,)))

    @property
    def budget(self) -> tuple[Metric, Amount]:
        """The metric and the amount asked for, of a recipe with one budget."""
        [budget] = self.budgets
        return budget

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the budgets, in the order of `budgets`."""
        return tuple(itertools.starmap(budget_label, self.budgets))

    def at(self, label: str) -> Recipe:
        """The same recipe with one of its budgets alone."""
        metric, amount = dict(zip(self.labels, self.budgets, strict=True))[label]
        return self.model_copy(update={metric: amount})
