"""Time ONNX files beside the first of them, the target network: interleaved runs, paired ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jstc.core.progress import Progress, Silent
from jstc.errors import InputError
from jstc.ort import memory, sessions
from jstc.ort.doubts import Disturbance, Watch, verdict
from jstc.ort.memory import PeakMemory
from jstc.ort.opened import Facts, Opened, open_file, prepare, profile
from jstc.ort.sessions import Provider
from jstc.ort.statistics import Ratio, WarmUp, interleaved_seconds, paired_ratio, warm_up
from jstc.recipe.schema import BenchSettings

__all__ = ["BenchResult", "BenchRow", "Skipped", "measure", "time_all"]

_WARM_UP_SHARE = 0.5  # of the measuring time, at most

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
    `disturbance`: what else the processor did while the file was timed. `verdict`: `no gain` up to 1.05,
    `unclear` where the interval reaches from no gain to one, else `gain`; how far a gain can be believed, and
    how it is to be told, `jstc.ort.doubts` says.
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
    disturbance: Disturbance = field(default_factory=Disturbance)
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


# Measuring.


def measure(
    files: Mapping[str, Path],
    *,
    settings: BenchSettings,
    facts: Mapping[str, Facts] | None = None,
    traces: Path | None = None,
    patient: bool = True,
    progress: Progress | None = None,
) -> BenchResult:
    """Time every file (label -> path) on every provider at every batch size; the first one is the target.

    `facts` of files by label come before what their metadata say. What cannot be measured is told and left
    out. `patient`: where an interval is still wide, measure longer (`jstc.ort.statistics.LONGEST`). With
    `settings.profile` the operators are profiled, too; onnxruntime's traces are put into `traces`.
    Raises `InputError` when a file is missing, or nothing can be measured at all.
    """
    if not files:
        raise InputError("nothing to measure: give at least one ONNX file")
    for path in files.values():
        sessions.require_file(path)
    work = _Work(files, settings, facts or {}, progress or Silent(), patient=patient)
    rows = [row for provider in work.providers() for row in work.on(provider)]
    if not rows:
        raise InputError("nothing could be measured: " + "; ".join(s.reason for s in work.skipped))
    work.progress.finish()
    rows = work.with_memory(rows) if settings.memory else rows
    profiles = list(work.profiles(rows, traces)) if settings.profile else []
    return BenchResult(rows, work.skipped, profiles)


def time_all(
    files: Mapping[str, Path], *, settings: BenchSettings, progress: Progress | None = None
) -> list[BenchRow]:
    """Time every file (label -> path) at every batch size, and nothing else; the first one is the target.

    Raises `InputError` for whatever cannot be measured.
    """
    bare = settings.model_copy(update={"memory": False, "profile": False})
    found = measure(files, settings=bare, patient=False, progress=progress)
    if found.skipped:
        raise InputError(found.skipped[0].reason)
    return found.rows


class _Work:
    """A measurement under way: what is asked for, whom to tell, and what had to be left out."""

    def __init__(
        self,
        files: Mapping[str, Path],
        settings: BenchSettings,
        facts: Mapping[str, Facts],
        progress: Progress,
        *,
        patient: bool,
    ) -> None:
        self.files, self.settings, self.facts, self.progress = files, settings, facts, progress
        self.patient = patient
        self.skipped: list[Skipped] = []
        self.sizes: dict[str, int] = {}  # dynamic ones, by name, of the first file that has each

    def skip(self, provider: str, reason: str, file: str | None = None, batch: int | None = None) -> None:
        """Leave something out, and say so."""
        self.skipped.append(Skipped(provider, reason, file, batch))
        self.progress.message(f"bench: not measured on {provider}: {reason}")

    def providers(self) -> list[Provider]:
        """The providers asked for that work here."""
        found: list[Provider] = []
        for name in self.settings.providers:
            if name == "auto":
                found.append(sessions.resolve("auto"))
                self.progress.message(_chosen(found[-1]))
            elif reason := sessions.problem(name):
                self.skip(name, reason)
            else:
                found.append(name)
        return list(dict.fromkeys(found))

    def on(self, provider: Provider) -> Iterator[BenchRow]:
        """The rows of one provider; its sessions last as long as its measuring."""
        opened = [item for label in self.files if (item := self._open(label, provider))]
        if not opened:
            return
        batches = _batches(opened, self.settings.batch_sizes)
        for batch in self.settings.batch_sizes:
            if batch not in batches:  # every file has a batch size of its own: nothing is timed at this one
                for item in opened:
                    self._fits(item, batch)
        self.progress.start("bench", len(batches), "batch size")
        for done, batch in enumerate(batches, start=1):
            rows = self._at_batch(opened, batch)
            yield from rows
            names = {row.file: Path(row.file).name for row in rows}
            told = names if len(set(names.values())) == len(rows) else {row.file: row.file for row in rows}
            if rows:
                self.progress.update(
                    done, batch=batch, **{f"{told[row.file]} ms": row.median_ms for row in rows}
                )

    def _open(self, label: str, provider: Provider) -> Opened | None:
        try:
            found = open_file(
                label,
                self.files[label],
                provider=provider,
                threads=self.settings.threads,
                facts=self.facts.get(label),
                sizes=self.sizes,
            )
        except InputError as error:
            self.skip(provider, str(error), label)
            return None
        self.sizes = found.sizes | self.sizes
        if found.sizes:
            self.progress.message(f"bench: {label} is timed at {_told(found.sizes)}")
        if found.elsewhere:
            counts = ", ".join(f"{count} on {other}" for other, count in found.elsewhere.items())
            self.progress.message(f"bench: {label} on {provider}: nodes that run elsewhere: {counts}")
        return found

    def _at_batch(self, opened: Sequence[Opened], batch: int) -> list[BenchRow]:
        items = [item for item in opened if self._fits(item, batch)]
        runs = {item.label: run for item in items if (run := self._first_run(item, batch))}
        items = [item for item in items if item.label in runs]
        if not items:
            return []
        calls = list(runs.values())
        seconds = self.settings.seconds
        warm = warm_up(calls, seconds=seconds * _WARM_UP_SHARE)
        if not all(warm.steady):
            restless = [i.label for i, steady in zip(items, warm.steady, strict=True) if not steady]
            self.progress.message(
                f"bench: still not steady after {warm.rounds} rounds at batch {batch}: {', '.join(restless)}"
            )
        target = next((item for item in items if item.label == next(iter(self.files))), None)
        enough = _are_narrow if self.patient and target is not None else None
        with Watch() as watch:
            latencies = interleaved_seconds(calls, seconds=seconds, enough=enough)
        if watch.found.is_busy:
            self.progress.message(f"bench: the machine is busy, batch {batch}: {watch.found.told}")
        rows = _rows(items, target, latencies, warm, batch)
        return [replace(row, disturbance=watch.found) for row in rows]

    def _fits(self, item: Opened, batch: int) -> bool:
        if item.fixed_batch in (None, batch):
            return True
        if batch in self.settings.batch_sizes:
            reason = f"{item.path} has a fixed batch size of {item.fixed_batch} and is timed at that only"
            self.skip(item.provider, reason, item.label, batch)
        return False

    def _first_run(self, item: Opened, batch: int) -> Callable[[], object] | None:
        try:
            run = prepare(item, batch)
            run()
        except sessions.ORT_ERRORS as error:
            place = _told({"batch": batch} | item.sizes)
            reason = f"{item.path}: onnxruntime cannot run it at {place}: {sessions.first_line(error)}"
            self.skip(item.provider, reason, item.label, batch)
            return None
        return run

    def with_memory(self, rows: Sequence[BenchRow]) -> list[BenchRow]:
        """The rows with what each file takes, measured in processes of their own."""
        threads = self.settings.threads
        tasks = [memory.Task(str(self.files[r.file]), r.provider, r.batch, threads, self.sizes) for r in rows]
        answers = memory.peak_memory(tasks)
        return [_with_memory(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def profiles(self, rows: Sequence[BenchRow], traces: Path | None) -> Iterator[dict[str, object]]:
        """Where the time goes, for every row."""
        for index, row in enumerate(rows):
            name = f"trace-{index:02d}-{Path(row.file).stem}-{row.provider}-batch{row.batch}.json"
            yield profile(
                row.file,
                self.files[row.file],
                provider=row.provider,
                batch=row.batch,
                threads=self.settings.threads,
                sizes=self.sizes,
                trace_to=traces / name if traces else None,
            )


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _chosen(provider: Provider) -> str:
    reason = "" if provider == "cuda" else f": {sessions.cuda_problem()}"
    return f"bench: provider auto is {provider} here{reason}"


def _batches(opened: Sequence[Opened], wanted: Sequence[int]) -> list[int]:
    """The batch sizes asked for, then those that a file insists on."""
    fixed = [item.fixed_batch for item in opened if item.fixed_batch is not None]
    free = len(fixed) < len(opened)
    return list(dict.fromkeys([*(b for b in wanted if free or b in fixed), *fixed]))


def _rows(
    items: Sequence[Opened],
    target: Opened | None,
    latencies: npt.NDArray[np.float64],
    warm: WarmUp,
    batch: int,
) -> Iterator[BenchRow]:
    columns = {item.label: latencies[:, index] for index, item in enumerate(items)}
    for item, steady in zip(items, warm.steady, strict=True):
        row = _timed(item, batch, columns[item.label])
        row = replace(row, warm_up_rounds=warm.rounds, steady=steady)
        if target is None:
            yield replace(row, verdict="no target")
        elif target is not item:
            yield _against(row, target.facts, paired_ratio(columns[target.label], columns[item.label]))
        else:
            yield row


def _are_narrow(latencies: npt.NDArray[np.float64]) -> bool:
    """Whether it is known how much faster each file is than the first; latencies are [rounds, files]."""
    first, *others = latencies.T
    return not any(paired_ratio(first, other).is_wide for other in others)


# Rows.


def _timed(item: Opened, batch: int, seconds: npt.NDArray[np.float64]) -> BenchRow:
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


def _against(row: BenchRow, target: Facts, ratio: Ratio) -> BenchRow:
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


def _with_memory(row: BenchRow, answer: PeakMemory) -> BenchRow:
    """The row with what its file takes."""
    if answer.mb is None:
        return replace(row, peak_memory_missing=answer.reason)
    return replace(
        row, peak_memory_mb=answer.mb, peak_memory_of="process" if row.provider == "cpu" else "device"
    )
