"""The sections of a recipe about images, training and finetune. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from jstc.recipe_settings import Fraction, OptionalPath, Strict, as_tuple

__all__ = ["CheckpointSettings", "FinetuneSettings", "InputSettings", "TrainSettings"]

Decay = Annotated[float, Field(ge=0, lt=1)]


class InputSettings(Strict):
    """How images reach the network."""

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
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = 0.9
    nesterov: bool | None = True
    betas: Annotated[tuple[Decay, Decay], BeforeValidator(as_tuple)] | None = None
    weight_decay: NonNegativeFloat = 5e-4
    warmup_epochs: NonNegativeFloat = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    max_rollbacks: NonNegativeInt = Field(
        3, description="so often a stage that diverges goes back to its last good state"
    )
    rollback_factor: Fraction = Field(0.5, description="of the learning rate, each time")


class FinetuneSettings(Strict):
    """Training of the chosen sub-network."""

    epochs: PositiveInt = 20
    steps_per_epoch: PositiveInt | None = Field(None, description="shortens an epoch, for trials")
    teacher: Literal["none", "target"] = "none"
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: PositiveFloat = 4.0


class CheckpointSettings(Strict):
    """How often a training is saved inside a round or an epoch; at the end of each it always is."""

    every_seconds: PositiveFloat | None = Field(600.0, description="null: not by the clock")
    every_steps: PositiveInt | None = Field(None, description="also after so many training steps")
    keep: PositiveInt = Field(2, description="the newest so many, each whole")
