"""The outcome of timing files: a row for each file, provider and batch size, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jstc.ort.memory import PeakMemory
from jstc.ort.opened import Facts, Opened
from jstc.ort.sessions import Provider
from jstc.ort.statistics import Ratio

__all__ = [
    "NO_GAIN",
    "BenchResult",
    "BenchRow",
    "Skipped",
    "Verdict",
    "against",
    "timed_row",
    "verdict",
    "with_memory",
]

NO_GAIN = 1.05
"""A speed-up up to here is called none: less than users notice, and than machines vary."""

Verdict = Literal["target", "gain", "no gain", "unclear", "no target"]


@dataclass(frozen=True)
class BenchRow:
    """One file on one provider at one batch size.

    Latencies are of whole calls: on the CPU from host memory to host memory; on CUDA and TensorRT with inputs
    and outputs bound to device memory (`io` is `device`), so that no transfer is in them.
    `speedup_vs_target` is the median of the ratios target / file of the same round, `ratio_low` to
    `ratio_high` its 95 % interval; all 1 for the target, and for a file timed without it (`no target`).
    `flops_ratio` is target / file, `ideal_share` the speed-up as a share of it; None where FLOPs are unknown.
    `steady`: whether the latency had settled before the measuring; `peak_memory_mb` as `jstc.ort.memory`
    says, None with `peak_memory_missing`; `nodes_elsewhere`: nodes that other providers run, by provider.
    `verdict`: `no gain` up to 1.05, `unclear` where the interval reaches down to 1, else `gain`.
    """

    file: str
    bytes: int
    provider: Provider
    batch: int
    median_ms: float
    p95_ms: float
    images_per_second: float
    speedup_vs_target: float
    ratio_low: float
    ratio_high: float
    runs: int
    verdict: Verdict
    precision: str | None = None
    threads: int = 0
    flops: int | None = None
    flops_ratio: float | None = None
    ideal_share: float | None = None
    io: Literal["host", "device"] = "host"
    warm_up_rounds: int = 0
    steady: bool = True
    nodes_elsewhere: Mapping[str, int] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    peak_memory_of: Literal["process", "device"] | None = None
    peak_memory_missing: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class Skipped:
    """What was asked for and not measured. `file` None: every file; `batch` None: every batch size."""

    provider: str
    reason: str
    file: str | None = None
    batch: int | None = None


@dataclass(frozen=True)
class BenchResult:
    """Rows, what is missing among them, and operator profiles by request."""

    rows: list[BenchRow]
    skipped: list[Skipped] = field(default_factory=list)
    profiles: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """A JSON document, without the profiles."""
        return {"rows": [row.to_dict() for row in self.rows], "skipped": [asdict(s) for s in self.skipped]}


def verdict(ratio: Ratio) -> Verdict:
    """What a speed-up amounts to."""
    if ratio.median <= NO_GAIN:
        return "no gain"
    return "unclear" if ratio.low <= 1 else "gain"


def timed_row(item: Opened, batch: int, seconds: npt.NDArray[np.float64]) -> BenchRow:
    """A row as of the target network, from latencies [rounds] in seconds."""
    median, p95 = np.percentile(seconds, [50, 95]).tolist()
    return BenchRow(
        file=item.label,
        bytes=item.path.stat().st_size,
        provider=item.provider,
        batch=batch,
        median_ms=median * 1e3,
        p95_ms=p95 * 1e3,
        images_per_second=batch / median,
        speedup_vs_target=1.0,
        ratio_low=1.0,
        ratio_high=1.0,
        runs=len(seconds),
        verdict="target",
        precision=item.facts.precision,
        threads=item.threads,
        flops=item.facts.flops,
        io="host" if item.provider == "cpu" else "device",
        nodes_elsewhere=item.elsewhere,
    )


def against(row: BenchRow, target: Facts, ratio: Ratio) -> BenchRow:
    """The row beside the target network's."""
    before, after = target.flops, row.flops
    flops_ratio = before / after if before and after else None
    return replace(
        row,
        speedup_vs_target=ratio.median,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        verdict=verdict(ratio),
        flops_ratio=flops_ratio,
        ideal_share=ratio.median / flops_ratio if flops_ratio else None,
    )


def with_memory(row: BenchRow, answer: PeakMemory) -> BenchRow:
    """The row with what its file takes."""
    if answer.mb is None:
        return replace(row, peak_memory_missing=answer.reason)
    return replace(
        row, peak_memory_mb=answer.mb, peak_memory_of="process" if row.provider == "cpu" else "device"
    )
