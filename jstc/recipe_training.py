"""The sections of a recipe about images, training and finetune. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jstc.recipe_settings import Fraction, OptionalPath, Strict, as_tuple, require_rising

__all__ = ["CheckpointSettings", "FinetuneSettings", "InputSettings", "TrainSettings"]

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
        None, description="folder for copies of remote shards and indices of shards; null: the user's cache"
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
