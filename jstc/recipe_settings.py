"""Sections of the recipe about the network and what becomes of it, not about training. No torch here."""

from __future__ import annotations

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
)

__all__ = ["BenchSettings", "ChannelSettings", "ExportSettings", "Fraction", "GroupSettings"]
__all__ += ["LatencySettings", "OptionalPath", "Precision", "Share", "Strict", "as_tuple", "require_rising"]


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
