"""The types that sections of a recipe are made of, and the sections about the network and its files.

No torch here. Every key says in its description what it does, and in which unit: editors and `docs/recipe.md`
take it from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
)
from pydantic_core import CoreSchema

__all__ = [
    "AlsoText",
    "BenchSettings",
    "ChannelSettings",
    "ExportSettings",
    "Fraction",
    "GroupSettings",
    "LatencySettings",
    "OptionalPath",
    "Precision",
    "Section",
    "Share",
    "WeightsSource",
    "as_tuple",
    "require_rising",
]


class Section(BaseModel):
    """Keys that belong together: unknown ones and values of another type are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True)
class AlsoText:
    """Marks a value that may be a text of `pattern` too, which a validator reads; for the JSON schema."""

    pattern: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """See pydantic, which asks every annotation of a field."""
        schema = handler(core_schema)
        branches = schema.get("anyOf", [schema])
        return {"anyOf": [*branches, {"type": "string", "pattern": self.pattern}]}


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


# `default`, and torchvision's: `IMAGENET1K_V2`, `ResNet50_Weights.IMAGENET1K_V2`. A file called so is ./NAME.
_NAME_OF_WEIGHTS = re.compile(r"default|(\w+_Weights\.)?[A-Z][A-Z0-9_]*", re.ASCII)


def _as_weights(value: Any) -> Any:
    """A name of published weights stays a text, anything else is a path."""
    return value if isinstance(value, str) and _NAME_OF_WEIGHTS.fullmatch(value) else _as_path(value)


def _weights_text(value: Path | str | None) -> str | None:
    """What `_as_weights` reads as the same again."""
    text = None if value is None else str(value)
    named = text is not None and isinstance(value, Path) and _NAME_OF_WEIGHTS.fullmatch(text)
    return f"./{text}" if named else text


def _as_mapping(value: Any) -> Any:
    return {} if value is None else value  # a section whose keys are all commented out


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
PathText = Annotated[Path, PlainSerializer(str, return_type=str)]
OptionalPath = Annotated[PathText | None, BeforeValidator(_as_path)]
WeightsSource = Annotated[
    Path | str | None,
    BeforeValidator(_as_weights),
    PlainSerializer(_weights_text, return_type=str | None),
]
Step = PositiveInt | Literal["auto"]


# What may be cut.


class GroupSettings(Section):
    """Limits of the groups that a pattern names; null: as for all."""

    round_to: Step | None = Field(None, description="Kept widths of these groups are multiples of this.")
    min_share: Share | None = Field(None, description="Least share of these groups' channels kept.")
    min_width: PositiveInt | None = Field(None, description="Least number of these groups' channels kept.")


class ChannelSettings(Section):
    """Which channels may be cut, and how far."""

    round_to: Step = Field(
        "auto",
        description="Kept widths are multiples of this; auto: 8, or less in narrow groups and tight budgets, "
        "and with a budget of latency the channels that the provider computes at once.",
    )
    min_share: Share = Field(0.1, description="Least share of a group's channels kept.")
    min_width: PositiveInt = Field(1, description="Least number of a group's channels kept.")
    ignore: Names = Field((), description="Patterns of module names whose channels all stay: [layer4.*, fc].")
    groups: Annotated[dict[str, GroupSettings], BeforeValidator(_as_mapping)] = Field(
        default_factory=dict,
        description="Limits by a pattern of group or module names; the later of two that match wins.",
    )


# Budgets of latency, and measuring.

_OWN_CHOICE = "onnxruntime's CPU threads; 0: its own choice."


class LatencySettings(Section):
    """What a budget of latency is measured with: onnxruntime on this machine."""

    provider: Literal["auto", "cpu", "cuda"] = Field(
        "cpu", description="onnxruntime's provider; auto: CUDA where it works, else the CPU."
    )
    batch: PositiveInt = Field(1, description="Batch size.")
    threads: NonNegativeInt = Field(0, description=_OWN_CHOICE)


ProviderName = Literal["auto", "cpu", "cuda", "tensorrt"]


def _as_providers(value: Any) -> Any:
    """One name, or several: as a list, or in one word with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value
    stripped = tuple(dict.fromkeys(name.strip() for name in names))
    return stripped[0] if len(stripped) == 1 else stripped


def _words(names: tuple[str, ...]) -> str:
    """Pattern of some of the names with commas between them."""
    word = f"\\s*({'|'.join(names)})\\s*"
    return f"^{word}(,{word})*$"


class BenchSettings(Section):
    """How exported files are timed in onnxruntime."""

    provider: Annotated[
        ProviderName | Annotated[tuple[ProviderName, ...], Field(min_length=1)],
        BeforeValidator(_as_providers),
        AlsoText(_words(get_args(ProviderName))),
    ] = Field(
        "auto",
        description="onnxruntime's provider, or a list of several, in turn; auto: CUDA where it works, else "
        "the CPU.",
    )
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), BeforeValidator(as_tuple)] = Field(
        (1, 8), description="Batch sizes, each measured by itself."
    )
    threads: NonNegativeInt = Field(0, description=_OWN_CHOICE)
    seconds: PositiveFloat = Field(
        2.0, allow_inf_nan=False, description="Measuring time per batch size, shared by the files."
    )
    memory: bool = Field(True, description="Measure peak memory, in a process of its own for each file.")
    profile: bool = Field(False, description="Measure where the time goes, by operator and by node.")
    trace: bool = Field(False, description="With profile: keep onnxruntime's own traces.")

    @property
    def providers(self) -> tuple[ProviderName, ...]:
        """The providers asked for, in order."""
        return (self.provider,) if isinstance(self.provider, str) else self.provider


# Exported files.

Precision = Literal["fp32", "fp16", "int8"]


def _as_precisions(value: Any) -> Any:
    value = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    known = get_args(Precision)
    if not value or not isinstance(value, list | tuple) or any(name not in known for name in value):
        return as_tuple(value)
    return tuple(name for name in known if name in value)  # in one order, each once


def _as_batch(value: Any) -> Any:
    return None if value == "dynamic" else value


class ExportSettings(Section):
    """The ONNX files, and what each must pass to be kept."""

    precisions: Annotated[
        tuple[Precision, ...],
        Field(min_length=1),
        BeforeValidator(_as_precisions),
        AlsoText(_words(get_args(Precision))),
    ] = Field(("fp32",), description="Number formats, a file for each.")
    opset: Annotated[int, Field(ge=18, le=23)] = Field(18, description="Version of ONNX's operators.")
    batch: Annotated[PositiveInt | None, BeforeValidator(_as_batch), AlsoText("^dynamic$")] = Field(
        None, description="The batch size that the files are for; null or dynamic: any."
    )
    with_preprocess: bool = Field(False, description="Also files that take uint8 images and give classes.")
    license: Annotated[str, Field(min_length=1)] = Field(
        "unknown", description="License of the files, for their model card: mit, apache-2.0, your own ..."
    )
    parity_images: PositiveInt = Field(256, description="Test images on which files are compared with torch.")
    max_abs_diff: PositiveFloat = Field(1e-4, description="How far fp32 may be from torch, in the logits.")
    max_accuracy_drop: NonNegativeFloat = Field(
        1.0, description="Percentage points that a precision may lose against torch on the test split."
    )
    fp16_io: Literal["float32", "float16"] = Field(
        "float32", description="Type of the inputs and outputs of fp16."
    )
    calibration_images: PositiveInt = Field(256, description="Training images that set the ranges of int8.")
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax", description="How onnxruntime takes the ranges of int8 from these images."
    )
    reduce_range: bool = Field(
        True, description="int8 weights of 7 bits: 8 overflow on x86 processors without VNNI."
    )
