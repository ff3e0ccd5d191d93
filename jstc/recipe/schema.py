"""The typed recipe: everything that decides what a run does. No torch here.

Every command-line flag has a key here; every default is written here or in a section's file, nowhere else.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, WithJsonSchema, model_validator
from pydantic.json_schema import GenerateJsonSchema

from jstc.recipe.amounts import Asked, Metric, budget_label, parse_amount, parse_amounts, parse_latencies
from jstc.recipe.search_section import (
    GIVEN_WEIGHTS,
    IdleKeyError,
    SearchSettings,
    with_defaults_for_given_weights,
)
from jstc.recipe.sections import (
    BenchSettings,
    ChannelSettings,
    ExportSettings,
    GroupSettings,
    LatencySettings,
    OptionalPath,
    Precision,
    Section,
    WeightsSource,
)
from jstc.recipe.training_sections import CheckpointSettings, FinetuneSettings, InputSettings, TrainSettings

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
    "json_schema",
    "parse_amount",
    "parse_amounts",
]


def _one_or_several(number: dict[str, Any], unit: str) -> WithJsonSchema:
    """JSON schema of budgets: a number, a text with a unit, or several as a list or with commas."""
    word = rf"\s*[0-9.]+([eE][+-]?[0-9]+)?\s*({unit})\s*"
    text = {"type": "string", "pattern": f"^{word}(,{word})*$"}
    several = {"type": "array", "minItems": 1, "items": {"anyOf": [number, text]}}
    return WithJsonSchema({"anyOf": [number, text, several, {"type": "null"}]})


Amounts = Annotated[
    float | tuple[float, ...] | None,
    BeforeValidator(parse_amounts),
    _one_or_several({"type": "number", "exclusiveMinimum": 0}, "[kmgtKMGT%]?"),
]
Latencies = Annotated[
    float | str | tuple[float | str, ...] | None,
    BeforeValidator(parse_latencies),
    _one_or_several({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "us|ms|s|%?"),
]


class Recipe(Section):
    """Everything that decides what a run of jstc does."""

    model: str = Field(
        description="The network: a name that `jstc models` lists, timm:NAME, hf:ORG/NAME, "
        "path/to/file.py:factory or package.module:factory."
    )
    dataset: str = Field(description="The images: a name that `jstc datasets` lists.")
    data: OptionalPath = Field(
        None, description="Folder or pattern of the dataset's files; null where it needs none."
    )
    weights: WeightsSource = Field(
        None,
        description="Trained weights to start from: a file, or FILE#PART for a part of one; default, those "
        "that the network's library publishes; or torchvision's name of others (IMAGENET1K_V2). null: from "
        "scratch. Some defaults of search are others then.",
    )
    cifar: bool = Field(False, description="The network's form for 32x32 images, whatever the image size.")
    flops: Amounts = Field(
        None,
        description="The budget in FLOPs: a share of the target network's (0.5, 50%) or a count (500M), or a "
        "list of several that share one search. A recipe has flops, params or latency, or several of them: "
        "every network then meets all, and one of them can be a list.",
    )
    params: Amounts = Field(None, description="The budget in parameters, written likewise.")
    latency: Latencies = Field(
        None,
        description="The budget in onnxruntime's time for a batch: such as 2ms, or a share of the target "
        "network's; or several.",
    )
    latency_on: LatencySettings = Field(default_factory=LatencySettings)
    baseline: bool = Field(
        False,
        description="Also train the target network alone, as long as the whole run, to compare with.",
    )
    seed: NonNegativeInt = Field(0, description="Seed of every random choice.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto: on a GPU where there is one, else on the CPU."
    )
    threads: NonNegativeInt = Field(0, description="torch's CPU threads; 0: torch's own choice.")
    tensorboard: bool = Field(False, description="Also write the histories for TensorBoard.")
    input: InputSettings = Field(default_factory=InputSettings)
    channels: ChannelSettings = Field(default_factory=ChannelSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    bench: BenchSettings = Field(default_factory=BenchSettings)

    @model_validator(mode="before")
    @classmethod
    def _for_given_weights(cls, document: Any) -> Any:
        if not isinstance(document, dict) or document.get("weights") is None:
            return document
        search = document.get("search")
        if search is not None and not isinstance(search, dict):
            return document
        return document | {"search": with_defaults_for_given_weights(search or {})}

    @model_validator(mode="after")
    def _some_budget(self) -> Recipe:
        given = self._given_budgets
        if not given:
            raise ValueError(
                "no budget: a recipe needs the key flops, params or latency, "
                "`jstc search` the option --flops, --params or --latency"
            )
        lists = [metric for metric, amounts in given.items() if isinstance(amounts, tuple)]
        if len(lists) > 1:
            raise ValueError(
                f"{' and '.join(lists)} are lists: one of them can be, and the other bounds then hold for "
                "each of its budgets"
            )
        return self

    @property
    def weights_file(self) -> Path | None:
        """The file of weights to start from, if they are no published ones."""
        return self.weights if isinstance(self.weights, Path) else None

    @property
    def weights_name(self) -> str | None:
        """The name of published weights to start from, if it is no file."""
        return self.weights if isinstance(self.weights, str) else None

    @property
    def _given_budgets(self) -> dict[Metric, Any]:
        found: dict[Metric, Any] = {"flops": self.flops, "params": self.params, "latency": self.latency}
        return {metric: amounts for metric, amounts in found.items() if amounts is not None}

    @property
    def budgets(self) -> tuple[Asked, ...]:
        """The budgets asked for: of a list, from the largest number to the smallest."""
        every = {m: a if isinstance(a, tuple) else (a,) for m, a in self._given_budgets.items()}
        return tuple(dict(zip(every, amounts, strict=True)) for amounts in itertools.product(*every.values()))

    @property
    def budget(self) -> Asked:
        """The bounds asked for, of a recipe with one budget."""
        [budget] = self.budgets
        return budget

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the budgets, in the order of `budgets`."""
        return tuple(map(budget_label, self.budgets))

    def at(self, label: str) -> Recipe:
        """This recipe with one of its budgets alone."""
        asked = dict(zip(self.labels, self.budgets, strict=True))[label]
        return self.model_copy(update={str(metric): amount for metric, amount in asked.items()})


class _WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes of names (`Batch Size`): editors would show them first."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """See pydantic, which asks for every key."""
        return False


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe: every key with its type, range, default and description."""
    schema = Recipe.model_json_schema(schema_generator=_WithoutTitles)
    sections = schema.pop("$defs")
    return {"$schema": _WithoutTitles.schema_dialect, **schema, "$defs": sections}
