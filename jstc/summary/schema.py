"""The form of summary.json: what a run came to, which the report writes and others read.

`Summary` is of a run with one budget, `SweepSummary` of one with several; `Network` is what both say of one
slim network. Nothing is computed from figures here, only which row of a measurement is of which network.
No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from jstc.core.accuracy import Accuracy
from jstc.summary.values import (
    BoundFigures,
    BudgetFigures,
    Contribution,
    Disturbance,
    Fraction,
    Judged,
    Line,
    NonNegative,
    Number,
    OrEmpty,
    OrNone,
    Part,
    Positive,
    Rounding,
    Unreached,
)

__all__ = [
    "SCHEMA",
    "BudgetRow",
    "Contribution",
    "Costs",
    "Disturbance",
    "Frozen",
    "GroupWidth",
    "Judged",
    "Latency",
    "Network",
    "OnnxFile",
    "Picture",
    "Rounding",
    "Skipped",
    "Summary",
    "SweepSummary",
    "Target",
    "Timing",
    "Training",
    "Unreached",
]

SCHEMA = 1

# --- one slim network -------------------------------------------------------------------------------------


class Costs(Part):
    """A network in torch: counts by fvcore, and the accuracy on the test split as a fraction."""

    flops: NonNegative | None = None
    params: NonNegative | None = None
    accuracy: Fraction | None = None
    max_abs_diff_fold: Number | None = None
    max_abs_diff_fold_limit: Number | None = None
    rounding: Rounding | None = None
    unreached: Unreached | None = None


class Target(Costs):
    """The network that was cut; `accuracy` when trained alone, `accuracy_before` with given weights."""

    accuracy_before: Number | None = None


class ImagesIn(Part):
    """How images reach the network, in figures as exported files have them, and in a sentence."""

    sentence: Line = ""


class OnnxFile(Part):
    """An exported file, and how near it is to torch: answers and logits, on `parity_images` images."""

    file: Line
    precision: Line | None = None
    accuracy: Fraction | None = None
    test_images: PositiveInt | None = None
    torch_accuracy: Fraction | None = None  # on the same images, where they are not all of the split
    max_abs_diff: NonNegative | None = None
    max_abs_diff_limit: NonNegative | None = None
    top1_agreement: Fraction | None = None
    parity_images: PositiveInt | None = None
    bytes: NonNegative | None = None
    preprocess: bool | None = False
    batch: PositiveInt | None = None


class Timing(Part):
    """A file at one batch size on one provider, measured beside the target network."""

    file: Line
    provider: Line | None = None
    batch: PositiveInt | None = None
    median_ms: Positive | None = None
    p95_ms: Number | None = None
    speedup_vs_target: Positive | None = None
    bytes: Number | None = None
    images_per_second: Number | None = None
    ratio_low: Positive | None = None
    ratio_high: Positive | None = None
    runs: int | None = None
    verdict: str | None = None
    threads: int | None = None
    precision: str | None = None
    flops_ratio: Positive | None = None
    ideal_share: Number | None = None
    steady: bool | None = None
    disturbance: Disturbance | None = None
    nodes_elsewhere: dict[str, int] | None = None
    peak_memory_mb: Number | None = None

    @property
    def speedup(self) -> float | None:
        """Against the target network; None where that was not timed beside it."""
        return None if self.verdict == "no target" else self.speedup_vs_target

    @property
    def place(self) -> tuple[str | None, int | None, int | None]:
        """Provider, batch size, threads."""
        return self.provider, self.batch, self.threads


class Latency(Part):
    """Latencies of a run with such a budget, in milliseconds, and where they are meant."""

    predicted_ms: Number | None = None
    measured_ms: Number | None = None
    target_ms: Number | None = None
    provider: str | None = None
    batch: int | None = None
    threads: int | None = None


class GroupWidth(Part):
    """A channel group: its width in the target network, and `kept`, that in the slim one."""

    name: str
    width: int
    kept: int | None = None
    flops_share: Number
    flops_share_slim: Number | None = None


class Training(Part):
    """How long a stage trained, and what it reached.

    `settled`, `shared_by`, `candidates` and `contributions` are the search's.

    `planned_epochs` are what the search counted on, where finetune has had others. `chance` is what guessing
    reaches on the `test_images`, `training_accuracy` that of the last epoch.
    """

    rounds: int | None = None
    epochs: int | None = None
    planned_epochs: int | None = None
    settled: bool | None = None
    accuracy: Number | None = None
    images_seen: int | None = None
    shared_by: Annotated[list[str], OrNone] = Field(default=[])
    candidates: Judged | None = None
    contributions: Annotated[list[Contribution], OrNone] = Field(default=[])
    test_images: int | None = None
    chance: Fraction | None = None
    training_accuracy: Number | None = None

    def scored(self, accuracy: float | None) -> Accuracy | None:
        """An accuracy of the network trained here, with what is known of it."""
        if accuracy is None:
            return None
        return Accuracy(accuracy, self.test_images, self.chance, self.training_accuracy)


class Mismatch(Part):
    """What a given network seems to expect otherwise: see `jstc.runs.mismatch`."""

    kind: str
    what: str = ""
    settings: Annotated[dict[str, list[Number]], OrEmpty] = Field(default={})
    accuracy: Number | None = None
    as_given: Number | None = None
    images: int | None = None


class Given(Part):
    """The given network as it came: on the test split (`accuracy_before` of the target), how it was read."""

    loss: Number | None = None
    test_images: int | None = None
    chance: Fraction | None = None
    mismatch: Mismatch | None = None
    notes: Annotated[list[str], OrNone] = Field(default=[])


class Network(Part):
    """One slim network: what it was to be, what it is, its files and their timings."""

    budget: Annotated[BudgetFigures, OrEmpty] = BudgetFigures()
    slim: Annotated[Costs, OrEmpty] = Costs()
    onnx: Annotated[list[OnnxFile], OrNone] = Field(default=[])
    bench: Annotated[list[Timing], OrNone] = Field(default=[])
    latency: Latency | None = None
    search: Annotated[Training, OrEmpty] = Training()
    finetune: Annotated[Training, OrEmpty] = Training()
    plan_hash: str | None = None
    groups: Annotated[list[GroupWidth], OrNone] = Field(default=[])

    @property
    def scored(self) -> Accuracy | None:
        """The accuracy of the slim network on the test split; None where it is not known."""
        return self.finetune.scored(self.slim.accuracy)

    @property
    def files(self) -> list[OnnxFile]:
        """The files that hold the network alone; not their companions with preprocessing."""
        return [file for file in self.onnx if not file.preprocess]

    @property
    def target_rows(self) -> list[Timing]:
        """The target network's timings."""
        named = (row.file for row in self.bench if row.verdict == "target")
        # Without verdicts, which old files do not have, it is the one measured first.
        first = self.bench[0].file if self.bench and self.bench[0].verdict is None else None
        label = next(named, first)
        return [row for row in self.bench if row.file == label]

    @property
    def compared_rows(self) -> list[Timing]:
        """The timings of other files beside the target network."""
        return [row for row in self.bench if self.is_compared(row)]

    def is_compared(self, row: Timing) -> bool:
        """Whether a timing is of another file beside the target network."""
        return row.speedup is not None and all(row.file != target.file for target in self.target_rows)

    @property
    def slim_rows(self) -> list[Timing]:
        """The timings of the network's first file: one for each provider and batch size."""
        rows, names = self.compared_rows, [file.file for file in self.files]
        order = {name: place for place, name in enumerate(names)}
        first = min((row.file for row in rows), key=lambda file: order.get(file, len(names)), default=None)
        return [row for row in rows if row.file == first]

    def target_row(self, row: Timing) -> Timing | None:
        """The target network's timing at the place of `row`."""
        return next((one for one in self.target_rows if one.place == row.place), None)

    @property
    def target_bytes(self) -> float | None:
        """Size of the target network's file; None where it was not timed."""
        return next((row.bytes for row in self.target_rows), None)

    def used(self, bound: BoundFigures) -> float | None:
        """What the slim network has of what is bounded; a latency as measured, or else as predicted."""
        if bound.metric == "latency":
            found = self.latency or Latency()
            return found.measured_ms if found.measured_ms is not None else found.predicted_ms
        return {"flops": self.slim.flops, "params": self.slim.params}.get(bound.metric or "")


class BudgetRow(Network):
    """The network of one of several budgets; `run` is its directory within the run's."""

    label: Line = ""
    run: str = ""


# --- a run ------------------------------------------------------------------------------------------------


class Skipped(Part):
    """A measurement that was asked for and not made; `file` None: every file, `batch` None: every size."""

    provider: str | None = None
    reason: str | None = None
    file: str | None = None
    batch: int | None = None


class Frozen(Part):
    """Channels of a layer that had to stay."""

    layer: str
    channels: int
    reason: str


class Picture(Part):
    """A picture: its place in the run directory, what it shows in words, how to read it."""

    file: str
    alt: str
    caption: str


class _Document(Part):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    model: Line
    dataset: Line
    seed: int | None = None
    target: Target
    seconds: Annotated[dict[str, Number | None], OrEmpty] = Field(default={})
    baseline: Annotated[Training, OrEmpty] = Training()
    given: Given | None = None
    frozen: Annotated[list[Frozen], OrNone] = Field(default=[])
    unknown_operations: Annotated[dict[str, int], OrEmpty] = Field(default={})
    input: Annotated[ImagesIn, OrEmpty] = ImagesIn()
    unreadable_images: int = 0
    kernels: Annotated[list[dict[str, Any]], OrNone] = Field(default=[])
    environment: Annotated[dict[str, Any], OrEmpty] = Field(default={})
    versions: Annotated[dict[str, str], OrEmpty] = Field(default={})
    command: str | None = None
    notes: Annotated[list[str], OrNone] = Field(default=[])
    warnings: Annotated[list[str], OrNone] = Field(default=[])

    @property
    def networks(self) -> Mapping[str, Network]:
        """The slim networks by the label of their budget, which is empty where there is only one."""
        return {}

    @property
    def references(self) -> dict[str, Accuracy]:
        """Accuracies that a slim network is compared with, the headline's first: as given, if it was."""
        trained = [self.baseline, *(one.finetune for one in self.networks.values())]
        images = next((one.test_images for one in trained if one.test_images), None)
        chance = next((one.chance for one in trained if one.chance is not None), None)
        given, alone = self.target.accuracy_before, self.baseline.scored(self.target.accuracy)
        found = {}
        if given is not None:
            own = self.given or Given()
            known = own.chance if own.chance is not None else chance
            found["given network"] = Accuracy(given, own.test_images or images, known)
        if alone is not None:
            found["trained alone"] = replace(alone, images=alone.images or images)
        return found

    @property
    def reference(self) -> Accuracy | None:
        """The accuracy that a loss is counted from; None where nothing is known."""
        return next(iter(self.references.values()), None)


class Summary(_Document, Network):
    """A run with one budget."""

    skipped: Annotated[list[Skipped], OrNone] = Field(default=[])
    pictures: Annotated[list[Picture], OrNone] = Field(default=[])

    @property
    def networks(self) -> Mapping[str, Network]:
        """The slim network, under an empty label."""
        return {"": self}


class SweepSummary(_Document):
    """A run with several budgets."""

    budgets: Annotated[list[BudgetFigures], OrNone] = Field(default=[])
    sweep: list[BudgetRow]
    search: Annotated[Training, OrEmpty] = Training()
    picture: str | None = None

    @property
    def networks(self) -> Mapping[str, Network]:
        """The slim networks by the label of their budget."""
        return {row.label: row for row in self.sweep}
