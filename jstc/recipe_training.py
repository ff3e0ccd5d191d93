"""The sections of a recipe about images, training and finetune. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from jstc.recipe_settings import Fraction, Strict

__all__ = ["CheckpointSettings", "FinetuneSettings", "InputSettings", "TrainSettings"]


class InputSettings(Strict):
    """How images reach the network."""

    image_size: PositiveInt | None = Field(None, description="side in pixels; null: the dataset's own")
    workers: NonNegativeInt = Field(2, description="decoding processes, for sets that do not fit in memory")
    val_fraction: Fraction = Field(0.2, description="share of the training split kept for search-validation")
    augment: bool = True


class TrainSettings(Strict):
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
