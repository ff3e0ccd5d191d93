"""The typed recipe: everything that decides what a run does. No torch here.

Every command-line flag has a key here; every default is written here and nowhere else.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from jstc.recipe_amount import Amount, Metric, budget_label, parse_amount, parse_amounts, parse_latencies

__all__ = [
    "Amounts",
    "BenchSettings",
    "ChannelSettings",
    "ExportSettings",
    "FinetuneSettings",
    "GroupSettings",
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

Fraction = Annotated[float, Field(gt=0, lt=1)]
Pair = tuple[NonNegativeFloat, NonNegativeFloat]


Amounts = Annotated[float | tuple[float, ...] | None, BeforeValidator(parse_amounts)]
Latencies = Annotated[float | str | tuple[float | str, ...] | None, BeforeValidator(parse_latencies)]
PathText = Annotated[Path, PlainSerializer(str, return_type=str)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_mapping(value: Any) -> Any:
    return {} if value is None else value  # a section whose keys are all commented out


OptionalPath = Annotated[PathText | None, BeforeValidator(_as_path)]
Range = Annotated[Pair, BeforeValidator(_as_tuple)]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(_as_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class InputSettings(_Strict):
    """How images reach the network."""

    image_size: PositiveInt | None = Field(None, description="side in pixels; null: the dataset's own")
    workers: NonNegativeInt = Field(2, description="decoding processes, for sets that do not fit in memory")
    val_fraction: Fraction = Field(0.2, description="share of the training split kept for search-validation")
    augment: bool = True


Share = Annotated[float, Field(gt=0, le=1)]
Step = PositiveInt | Literal["auto"]


class GroupSettings(_Strict):
    """Limits of single groups; null: as for all."""

    round_to: Step | None = None
    min_share: Share | None = None
    min_width: PositiveInt | None = None


class ChannelSettings(_Strict):
    """Which channels may be cut, and how far."""

    round_to: Step = Field(
        "auto",
        description="kept widths are multiples of this; auto: largest of 1, 2, 4, 8 up to 1/8 of the group",
    )
    min_share: Share = Field(0.1, description="least share of a group kept")
    min_width: PositiveInt = 1
    ignore: Names = Field((), description="patterns of module names whose channels stay whole")
    groups: Annotated[dict[str, GroupSettings], BeforeValidator(_as_mapping)] = Field(
        default_factory=dict,
        description="limits by a pattern of group or module names; the later of two that match wins",
    )


class LatencySettings(_Strict):
    """Where and how a budget of latency is meant: onnxruntime on this machine."""

    provider: Literal["auto", "cpu", "cuda"] = "cpu"
    batch: PositiveInt = 1
    threads: NonNegativeInt = Field(0, description="0: onnxruntime's own choice")


class TrainSettings(_Strict):
    """Optimiser and schedule, shared by search, finetune and the baseline."""

    batch_size: PositiveInt = 128
    lr: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 5e-4
    warmup_epochs: NonNegativeFloat = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True


class SearchSettings(_Strict):
    """Joint search-and-training."""

    rounds: PositiveInt = 40
    epochs_per_round: PositiveFloat = 1.0
    steps_per_round: PositiveInt | None = Field(None, description="overrides epochs_per_round")
    # the four parts, each switchable
    perturbation: bool = True
    thresholds: Literal["threshnet", "common", "fixed"] = "threshnet"
    fixed_thresholds: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description="threshold per group for thresholds: fixed; others share one"
    )
    importance: Literal["learned", "magnitude", "random"] = "learned"
    coarse_to_fine: bool = True
    # sampler
    coarse_share: Annotated[float, Field(ge=0, le=1)] = Field(0.85, description="share of coarse rounds")
    coarse_budget: Share = Field(
        0.4,
        description="share of the budget that sub-networks of coarse rounds have; 1 where weights are given",
    )
    sigma: Range = Field((1.0, 0.1), description="scale of the Gumbel perturbation, first to last round")
    noise_period: PositiveInt = Field(
        40, description="rounds that a channel's perturbation lasts; 1: drawn anew every round"
    )
    inertia: NonNegativeFloat = Field(
        4.0,
        description="what having just been trained adds to a channel's score; 0 where weights are given",
    )
    tau: PositiveRange = Field(
        (8.0, 4.0), description="temperature of the probabilities, first to last round"
    )
    threshold_grid: Annotated[tuple[Fraction, ...], BeforeValidator(_as_tuple), Field(min_length=2)] = (
        0.6, 0.65, 0.7, 0.75, 0.8, 0.85,
    )  # fmt: skip
    # learning rates of what is searched
    alpha_lr: PositiveFloat = 0.02
    alpha_steps: PositiveInt = Field(1, description="steps on search-validation batches per round")
    candidates: PositiveInt = Field(3, description="plans of a fine round, judged before the best is trained")
    candidate_images: PositiveInt = Field(512, description="search-validation images that judge a candidate")
    threshnet_lr: PositiveFloat = 0.05
    entropy_bonus: NonNegativeFloat = 0.01
    # judging
    archive_size: PositiveInt = 4
    recalibration_images: PositiveInt = 1024
    reward_images: PositiveInt = 5000
    judge_every: PositiveInt = Field(
        4, description="rounds below the budget are judged once in so many; those at the budget always"
    )
    settle_overlap: Annotated[float, Field(gt=0, le=1)] = 0.98
    settle_window: PositiveInt = 5


class FinetuneSettings(_Strict):
    """Training of the chosen sub-network."""

    epochs: PositiveInt = 20
    steps_per_epoch: PositiveInt | None = Field(None, description="shortens an epoch, for trials")
    teacher: Literal["none", "target"] = "none"
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: PositiveFloat = 4.0


Precision = Literal["fp32", "fp16", "int8"]


def _as_precisions(value: Any) -> Any:
    value = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    known = get_args(Precision)
    if not value or not isinstance(value, list | tuple) or any(name not in known for name in value):
        return _as_tuple(value)
    return tuple(name for name in known if name in value)  # in one order, each once


def _as_batch(value: Any) -> Any:
    return None if value == "dynamic" else value


Precisions = Annotated[tuple[Precision, ...], BeforeValidator(_as_precisions), Field(min_length=1)]


class ExportSettings(_Strict):
    """The ONNX files and the gates they must pass."""

    precisions: Precisions = ("fp32",)
    opset: Annotated[int, Field(ge=18, le=23)] = 18
    batch: Annotated[PositiveInt | None, BeforeValidator(_as_batch)] = Field(
        None, description="the batch size that the files are for; null or dynamic: any"
    )
    with_preprocess: bool = Field(False, description="also files that take uint8 images and give classes")
    license: Annotated[str, Field(min_length=1)] = Field(
        "unknown", description="of the exported files, for their model card: mit, apache-2.0, your own ..."
    )
    parity_images: PositiveInt = 64
    max_abs_diff: PositiveFloat = Field(1e-4, description="of fp32 to torch, in the logits")
    max_accuracy_drop: NonNegativeFloat = Field(
        1.0, description="percentage points that a precision may lose against torch on the test split"
    )
    fp16_io: Literal["float32", "float16"] = Field("float32", description="inputs and outputs of fp16")
    calibration_images: PositiveInt = Field(256, description="training images that set the ranges of int8")
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    reduce_range: bool = Field(
        True, description="int8 weights of 7 bits: 8 overflow on x86 processors without VNNI"
    )


ProviderName = Literal["auto", "cpu", "cuda", "tensorrt"]


def _as_providers(value: Any) -> Any:
    """One name, or several: as a list, or in one word with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value
    stripped = tuple(dict.fromkeys(name.strip() for name in names))
    return stripped[0] if len(stripped) == 1 else stripped


class BenchSettings(_Strict):
    """onnxruntime timing."""

    provider: Annotated[
        ProviderName | Annotated[tuple[ProviderName, ...], Field(min_length=1)],
        BeforeValidator(_as_providers),
    ] = Field("auto", description="auto (CUDA where it works, else the CPU), cpu, cuda, tensorrt; or a list")
    batch_sizes: Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (1, 8)
    threads: NonNegativeInt = Field(0, description="0: onnxruntime's own choice")
    seconds: PositiveFloat = Field(2.0, description="measuring time per batch size, shared by the files")
    memory: bool = Field(True, description="measure peak memory, in a process of its own for each file")
    profile: bool = Field(False, description="measure where the time goes, by operator and by node")
    trace: bool = Field(False, description="with profile: keep onnxruntime's own traces")

    @property
    def providers(self) -> tuple[ProviderName, ...]:
        """The providers asked for, in order."""
        return (self.provider,) if isinstance(self.provider, str) else self.provider


class Recipe(_Strict):
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
    input: InputSettings = InputSettings()
    channels: ChannelSettings = ChannelSettings()
    train: TrainSettings = TrainSettings()
    search: SearchSettings = SearchSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    export: ExportSettings = ExportSettings()
    bench: BenchSettings = BenchSettings()

    @model_validator(mode="before")
    @classmethod
    def _for_given_weights(cls, document: Any) -> Any:
        # Channels of a trained network are not each other's equals: none is favoured for coming first, and
        # none is left out of most of the rounds.
        if not isinstance(document, dict) or document.get("weights") is None:
            return document
        search = document.get("search")
        if search is not None and not isinstance(search, dict):
            return document
        return document | {"search": {"coarse_budget": 1.0, "inertia": 0.0} | (search or {})}

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
