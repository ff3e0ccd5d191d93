"""Sections of a recipe about training: images, optimiser, finetune, checkpoints. No torch here."""

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

from jstc.core.preprocessing import Interpolation
from jstc.recipe.sections import AlsoText, Fraction, OptionalPath, Section, as_tuple, require_rising

__all__ = ["CheckpointSettings", "FinetuneSettings", "InputSettings", "TrainSettings"]


Figures = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), BeforeValidator(as_tuple)
]
Deviations = Annotated[tuple[PositiveFloat, ...], Field(min_length=1), BeforeValidator(as_tuple)]


def _as_colour(value: Any) -> Any:
    if isinstance(value, str) and value.count(",") == 2:  # as it is written on a command line
        value = [part.strip() for part in value.split(",")]
        return tuple(int(part) if part.isdecimal() else part for part in value)
    return as_tuple(value)


Byte = Annotated[int, Field(ge=0, le=255)]
Background = Annotated[
    Literal["white", "black", "none"] | tuple[Byte, Byte, Byte],
    BeforeValidator(_as_colour),
    AlsoText(r"^\s*\d+\s*,\s*\d+\s*,\s*\d+\s*$"),
]


ImageSize = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], BeforeValidator(as_tuple)]


class InputSettings(Section):
    """How images reach the network."""

    FREE: ClassVar[frozenset[str]] = frozenset({"workers", "prefetch", "max_corrupt", "cache"})
    """Keys that change nothing in what reaches it."""

    image_size: ImageSize | None = Field(
        None,
        description="Side in pixels of what the network gets, or [height, width]; null: the images' own "
        "where they are small and of one size, else the network's.",
    )
    resize_side: PositiveInt | Literal["stretch"] | None = Field(
        None,
        description="Shorter side to which images of another size are resized before their middle is cut out "
        "for evaluation; stretch: to the size itself. null: as the weights want it, else 8/7 of image_size, "
        "and stretch for sets in memory and for sizes that are not square.",
    )
    interpolation: Interpolation | None = Field(
        None, description="How images are resized, antialiased; null: as the weights want it, else bilinear."
    )
    mean: Figures | None = Field(
        None,
        description="What is taken from pixels in [0, 1], one for each channel or for all; null: as the "
        "weights want it, else the dataset's.",
    )
    std: Deviations | None = Field(None, description="What they are divided by then, likewise.")
    background: Background = Field(
        "white",
        description="Colour under transparent images: white, black, or red, green and blue from 0 to 255; "
        "none: transparency is dropped, as torchvision does.",
    )
    workers: NonNegativeInt = Field(2, description="Decoding processes, for sets that do not fit in memory.")
    val_fraction: Fraction = Field(0.2, description="Share of the training split kept for search-validation.")
    test_fraction: Fraction = Field(
        0.2, description="Share of all images set aside as test split, for data that come without one."
    )
    image_column: str | None = Field(
        None, description="Column of the images in tables; null: image, img, or the only one that has images."
    )
    label_column: str | None = Field(
        None, description="Column of the classes in tables; null: label, labels, fine_label, or the only one."
    )
    augment: bool = Field(True, description="Random crops or shifts, mirroring, and the next five keys.")
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = Field(
        "none", description="A policy of random operations on each training image, torchvision's."
    )
    randaugment_ops: PositiveInt = Field(2, description="With randaugment: operations on each image.")
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = Field(
        9, description="With randaugment: how strong they are."
    )
    random_erasing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the training images that lose a rectangle."
    )
    prefetch: PositiveInt = Field(2, description="Batches that each decoding process keeps ready.")
    max_corrupt: NonNegativeInt | None = Field(
        None,
        description="Images that may be unreadable, each replaced or left out, before the run ends; null: "
        "100 and, of those looked at before the run, less than a quarter.",
    )
    cache: OptionalPath = Field(
        None, description="Folder for the indices of tar shards; null: the user's cache."
    )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of `image_size`, which may be one number for both."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    @model_validator(mode="after")
    def _augmented(self) -> InputSettings:
        if not self.augment and (self.auto_augment != "none" or self.random_erasing):
            raise ValueError("auto_augment and random_erasing need augment: true")
        return self


# Optimiser and schedule. Some keys belong to one optimiser or one schedule alone.

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
"""Defaults of keys where the optimiser or the schedule is not the usual one."""


def _drawable(value: float) -> float:
    if 0 < value < 1e-3:  # the Beta distribution of still smaller ones is beyond float32
        raise ValueError("expected 0 for off, or an alpha from 0.001 to 1000, such as 0.2")
    return value


Alpha = Annotated[float, Field(ge=0, le=1000), AfterValidator(_drawable)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainSettings(Section):
    """Optimiser and schedule, shared by search, finetune and the baseline."""

    BEFORE: ClassVar[frozenset[str]] = frozenset({"head_epochs"})
    """Keys of what happens before any of these."""

    batch_size: PositiveInt = Field(128, description="Images of a step, in all processes together.")
    accumulate: PositiveInt = Field(
        1, description="Parts in which a batch goes through the network, to need less memory; one step."
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="What trains the weights.")
    lr: PositiveFloat = Field(
        0.1, description="Largest learning rate, after the warm-up; with adamw 0.001 unless given."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        0.9, description="Of sgd: weight of the steps before."
    )
    nesterov: bool | None = Field(True, description="Of sgd: Nesterov's momentum.")
    betas: Annotated[tuple[Decay, Decay] | None, BeforeValidator(as_tuple)] = Field(
        None, description="Of adamw: decay of both averages, then [0.9, 0.999] unless given."
    )
    weight_decay: NonNegativeFloat = Field(
        5e-4, description="Of weights, not of biases and norms; with adamw 0.01 unless given."
    )
    schedule: Literal["cosine", "step"] = Field(
        "cosine", description="How the rate falls over search and finetune together."
    )
    milestones: Annotated[tuple[Fraction, ...] | None, BeforeValidator(as_tuple)] = Field(
        None, description="Of the step schedule: shares of the training, [0.5, 0.75] unless given."
    )
    gamma: Fraction | None = Field(
        None, description="Of the step schedule: factor at each milestone, 0.1 unless given."
    )
    warmup_epochs: NonNegativeFloat = Field(
        1.0, description="Epochs in which the rate rises in a line, for at most a quarter of the training."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of each label that goes to all classes alike."
    )
    mixup: Alpha = Field(0.0, description="Alpha of its Beta distribution: images blended in pairs; 0: off.")
    cutmix: Alpha = Field(
        0.0,
        description="Alpha of its Beta distribution: a rectangle from another image; 0: off. With mixup, one "
        "of them is drawn each step.",
    )
    clip_norm: PositiveFloat | None = Field(
        None, description="Gradients are scaled down to this norm over all parameters; null: never."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the matrix products; auto: bfloat16 where the hardware is fast at it, "
        "else float32.",
    )
    head_epochs: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description="Where weights are for other classes: epochs in which the new classifier is trained "
        "alone, before anything else; auto: 1 to 10, as many as have 100 steps. 0: not at all.",
    )
    channels_last: bool = Field(True, description="Memory layout of images, for speed; numbers stay.")
    sync_batchnorm: bool = Field(
        False,
        description="With several processes, on GPUs: batch norms take the statistics of the whole batch.",
    )
    max_rollbacks: NonNegativeInt = Field(
        3, description="How often a stage that diverges may go back to its last good state."
    )
    rollback_factor: Fraction = Field(0.5, description="Factor of the learning rate after each time.")

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


class FinetuneSettings(Section):
    """Training of the chosen sub-network; the baseline has the same settings, but no teacher."""

    epochs: NonNegativeInt = Field(
        50, description="Epochs of the chosen sub-network; 0: it stays as the search leaves it."
    )
    steps_per_epoch: PositiveInt | None = Field(
        None, description="Shortens an epoch, for trials; null: all images."
    )
    ema_decay: Fraction | None = Field(
        None, description="Such as 0.999: the network is then the moving average of its weights."
    )
    compile: bool = Field(False, description="Train through torch.compile, which needs a compiler.")
    teacher: Literal["none", "target"] = Field(
        "none", description="target: learn from the target network's answers, too (distillation)."
    )
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="With a teacher: its share of the loss."
    )
    temperature: PositiveFloat = Field(
        4.0, description="With a teacher: temperature that softens the classes of both."
    )


class CheckpointSettings(Section):
    """How often a training is saved inside a round or an epoch; at the end of each it always is."""

    every_seconds: PositiveFloat | None = Field(
        600.0, description="Seconds between two checkpoints; null: not by the clock."
    )
    every_steps: PositiveInt | None = Field(
        None, description="Training steps between two checkpoints; null: not by steps."
    )
    keep: PositiveInt = Field(2, description="How many of the newest are kept, each whole.")
