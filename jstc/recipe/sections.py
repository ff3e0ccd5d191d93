"""Sections of the recipe about the network and what becomes of it, not about training. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

__all__ = [
    "BenchSettings",
    "ChannelSettings",
    "CheckpointSettings",
    "ExportSettings",
    "FinetuneSettings",
    "Fraction",
    "GroupSettings",
    "InputSettings",
    "LatencySettings",
    "OptionalPath",
    "Precision",
    "Share",
    "Strict",
    "TrainSettings",
    "as_tuple",
    "require_rising",
]


class Strict(BaseModel):
    """A section: unknown keys and values of another type are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def as_tuple(value: Any) -> Any:
    """A list from YAML as the tuple that a frozen section holds."""
    return tuple(value) if isinstance(value, list) else value


def require_rising(values: tuple[float, ...], what: str, example: list[float]) -> tuple[float, ...]:
    """The values; raises `ValueError`, which names `what` they are, unless each is above the one before."""
    if not values or list(values) != sorted(set(values)):
        raise ValueError(f"expected {what} that rise, such as {example}")
    return values


def _as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _as_mapping(value: Any) -> Any:
    return {} if value is None else value  # a section whose keys are all commented out


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Share = Annotated[float, Field(gt=0, le=1)]
PathText = Annotated[Path, PlainSerializer(str, return_type=str)]
OptionalPath = Annotated[PathText | None, BeforeValidator(_as_path)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Step = PositiveInt | Literal["auto"]


class GroupSettings(Strict):
    """Limits of single groups; null: as for all."""

    round_to: Step | None = None
    min_share: Share | None = None
    min_width: PositiveInt | None = None


class ChannelSettings(Strict):
    """Which channels may be cut, and how far."""

    round_to: Step = Field(
        "auto",
        description="kept widths are multiples of this; auto: 8, or less in narrow groups and tight budgets",
    )
    min_share: Share = Field(0.1, description="least share of a group kept")
    min_width: PositiveInt = 1
    ignore: Names = Field((), description="patterns of module names whose channels stay whole")
    groups: Annotated[dict[str, GroupSettings], BeforeValidator(_as_mapping)] = Field(
        default_factory=dict,
        description="limits by a pattern of group or module names; the later of two that match wins",
    )


class LatencySettings(Strict):
    """Where and how a budget of latency is meant: onnxruntime on this machine."""

    provider: Literal["auto", "cpu", "cuda"] = "cpu"
    batch: PositiveInt = 1
    threads: NonNegativeInt = Field(0, description="0: onnxruntime's own choice")


Precision = Literal["fp32", "fp16", "int8"]


def _as_precisions(value: Any) -> Any:
    value = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    known = get_args(Precision)
    if not value or not isinstance(value, list | tuple) or any(name not in known for name in value):
        return as_tuple(value)
    return tuple(name for name in known if name in value)  # in one order, each once


def _as_batch(value: Any) -> Any:
    return None if value == "dynamic" else value


Precisions = Annotated[tuple[Precision, ...], BeforeValidator(_as_precisions), Field(min_length=1)]


class ExportSettings(Strict):
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


class BenchSettings(Strict):
    """onnxruntime timing."""

    provider: Annotated[
        ProviderName | Annotated[tuple[ProviderName, ...], Field(min_length=1)],
        BeforeValidator(_as_providers),
    ] = Field("auto", description="auto (CUDA where it works, else the CPU), cpu, cuda, tensorrt; or a list")
    batch_sizes: Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (1, 8)
    threads: NonNegativeInt = Field(0, description="0: onnxruntime's own choice")
    seconds: PositiveFloat = Field(
        2.0, allow_inf_nan=False, description="measuring time per batch size, shared by the files"
    )
    memory: bool = Field(True, description="measure peak memory, in a process of its own for each file")
    profile: bool = Field(False, description="measure where the time goes, by operator and by node")
    trace: bool = Field(False, description="with profile: keep onnxruntime's own traces")

    @property
    def providers(self) -> tuple[ProviderName, ...]:
        """The providers asked for, in order."""
        return (self.provider,) if isinstance(self.provider, str) else self.provider


# The sections of a recipe about images, training and finetune. No torch here.

Decay = Annotated[float, Field(ge=0, lt=1)]


def _drawable(value: float) -> float:
    if 0 < value < 1e-3:  # the Beta distribution of still smaller ones is beyond float32
        raise ValueError("expected 0 for off, or an alpha from 0.001 to 1000, such as 0.2")
    return value


Alpha = Annotated[float, Field(ge=0, le=1000), AfterValidator(_drawable)]

_BELONGS = {
    "momentum": ("optimizer", "sgd"),
    "nesterov": ("optimizer", "sgd"),
    "betas": ("optimizer", "adamw"),
    "milestones": ("schedule", "step"),
    "gamma": ("schedule", "step"),
}
"""Keys that only one optimiser or schedule has; null with the others."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1e-3, "momentum": None, "nesterov": None, "betas": (0.9, 0.999), "weight_decay": 1e-2},
    "step": {"milestones": (0.5, 0.75), "gamma": 0.1},
}
"""Of keys that are not given, where the optimiser or the schedule is not the usual one."""


class InputSettings(Strict):
    """How images reach the network; `FREE` are the keys that change nothing in what reaches it."""

    FREE: ClassVar[frozenset[str]] = frozenset({"workers", "prefetch", "max_corrupt", "cache"})

    image_size: PositiveInt | None = Field(None, description="side in pixels; null: the dataset's own")
    workers: NonNegativeInt = Field(2, description="decoding processes, for sets that do not fit in memory")
    val_fraction: Fraction = Field(0.2, description="share of the training split kept for search-validation")
    augment: bool = Field(True, description="random crops or shifts, mirroring, and what is below")
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none"
    randaugment_ops: PositiveInt = Field(2, description="operations on each image")
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    random_erasing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the training images that lose a rectangle"
    )
    prefetch: PositiveInt = Field(2, description="batches that each decoding process keeps ready")
    max_corrupt: NonNegativeInt = Field(
        100, description="images that may be unreadable, each replaced or left out, before the run ends"
    )
    cache: OptionalPath = Field(
        None, description="folder for the indices of tar shards; null: the user's cache"
    )

    @model_validator(mode="after")
    def _augmented(self) -> InputSettings:
        if not self.augment and (self.auto_augment != "none" or self.random_erasing):
            raise ValueError("auto_augment and random_erasing need augment: true")
        return self


class TrainSettings(Strict):
    """Optimiser and schedule, shared by search, finetune and the baseline."""

    batch_size: PositiveInt = 128
    accumulate: PositiveInt = Field(1, description="parts of a batch that go through the network in turn")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = Field(0.1, description="largest learning rate; with adamw 0.001 unless given")
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(0.9, description="of sgd")
    nesterov: bool | None = Field(True, description="of sgd")
    betas: Annotated[tuple[Decay, Decay] | None, BeforeValidator(as_tuple)] = Field(
        None, description="of adamw, then [0.9, 0.999] unless given"
    )
    weight_decay: NonNegativeFloat = Field(
        5e-4, description="of weights, not of biases and norms; with adamw 0.01 unless given"
    )
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: Annotated[tuple[Fraction, ...] | None, BeforeValidator(as_tuple)] = Field(
        None, description="of the step schedule: shares of the training, [0.5, 0.75] unless given"
    )
    gamma: Fraction | None = Field(None, description="factor at each milestone, 0.1 unless given")
    warmup_epochs: NonNegativeFloat = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Alpha = Field(0.0, description="alpha of its Beta distribution; 0: off")
    cutmix: Alpha = Field(0.0, description="the same; with both, one of them is drawn each step")
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    channels_last: bool = True
    sync_batchnorm: bool = Field(
        False, description="of several processes, on GPUs: batch norms take the statistics of the whole batch"
    )
    max_rollbacks: NonNegativeInt = Field(
        3, description="so often a stage that diverges goes back to its last good state"
    )
    rollback_factor: Fraction = Field(0.5, description="of the learning rate, each time")

    @model_validator(mode="before")
    @classmethod
    def _with_their_defaults(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        chosen = (document.get("optimizer"), document.get("schedule"))
        known = [_DEFAULTS[name] for name in chosen if isinstance(name, str) and name in _DEFAULTS]
        return {key: value for defaults in known for key, value in defaults.items()} | document

    @field_validator(*_BELONGS)
    @classmethod
    def _of_its_own(cls, value: Any, info: ValidationInfo) -> Any:
        key = str(info.field_name)
        chooser, owner = _BELONGS[key]
        chosen = info.data.get(chooser, owner)
        if value is not None and chosen != owner:
            raise ValueError(f"{chosen} has no {key}; leave it out, or set train.{chooser} to {owner}")
        if value is None and chosen == owner:
            raise ValueError(f"null, but {owner} needs it; leave it out for the default")
        return value

    @field_validator("accumulate")
    @classmethod
    def _not_more_than_images(cls, value: int, info: ValidationInfo) -> int:
        images = info.data.get("batch_size", value)
        if value > images:
            raise ValueError(f"a batch of {images} images (train.batch_size) has no {value} parts")
        return value

    @field_validator("milestones")
    @classmethod
    def _rising(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return value if value is None else require_rising(value, "shares of the training", [0.5, 0.75])


class FinetuneSettings(Strict):
    """Training of the chosen sub-network; what is not of the teacher also holds for the baseline."""

    epochs: PositiveInt = 50
    steps_per_epoch: PositiveInt | None = Field(None, description="shortens an epoch, for trials")
    ema_decay: Fraction | None = Field(
        None, description="such as 0.999: the network is then the moving average of its weights"
    )
    compile: bool = Field(False, description="train through torch.compile, which needs a compiler")
    teacher: Literal["none", "target"] = "none"
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: PositiveFloat = 4.0


class CheckpointSettings(Strict):
    """How often a training is saved inside a round or an epoch; at the end of each it always is."""

    every_seconds: PositiveFloat | None = Field(600.0, description="null: not by the clock")
    every_steps: PositiveInt | None = Field(None, description="also after so many training steps")
    keep: PositiveInt = Field(2, description="the newest so many, each whole")
