"""Latencies of ONNX files against the first of them, the target network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jstc import ort
from jstc.bench.statistics import Ratio, paired_ratio
from jstc.bench.timing import interleaved_seconds, warm_up
from jstc.errors import InputError
from jstc.ort import Provider
from jstc.progress import Progress, Silent
from jstc.recipe import BenchSettings

__all__ = ["NO_GAIN", "BenchRow", "compare"]

NO_GAIN = 1.05
"""A speed-up up to here is called none: less than users notice, and than machines vary."""

_SEED = 0
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

Verdict = Literal["target", "gain", "no gain", "unclear"]


@dataclass(frozen=True)
class BenchRow:
    """One file at one batch size. Latencies are of whole calls from host memory to host memory.

    `speedup_vs_target` is the median of the ratios target / file of the same round, `ratio_low` to
    `ratio_high` its 95 % interval; all 1 for the target itself.
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

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class _Loaded:
    session: Any
    signature: ort.Signature
    path: Path
    provider: Provider


def compare(
    files: Mapping[str, Path], *, settings: BenchSettings, progress: Progress | None = None
) -> list[BenchRow]:
    """Time every file (label -> path) at every batch size; the first one is the target.

    Raises `InputError` for a provider that does not work here, or a file that cannot be run.
    """
    if not files:
        raise InputError("nothing to measure: give at least one ONNX file")
    progress = progress or Silent()
    provider = ort.resolve(settings.provider)
    if settings.provider == "auto":
        progress.message(_chosen(provider))
    loaded = {label: _load(path, provider, settings) for label, path in files.items()}
    progress.start("bench", len(settings.batch_sizes), "batch size")
    rows: list[BenchRow] = []
    for done, batch in enumerate(settings.batch_sizes, start=1):
        rows += _at_batch(loaded, batch, settings.seconds)
        progress.update(done, batch=batch, median_ms=rows[-1].median_ms, speedup=rows[-1].speedup_vs_target)
    progress.finish()
    return rows


def _chosen(provider: Provider) -> str:
    reason = "" if provider == "cuda" else f": {ort.cuda_problem()}"
    return f"bench: provider auto is {provider} here{reason}"


def _load(path: Path, provider: Provider, settings: BenchSettings) -> _Loaded:
    session = ort.open_session(path, provider=provider, threads=settings.threads)
    found = ort.signature(session, path)
    batch, *size = found.input_shape
    if found.input_type not in _INPUT_TYPES or None in size:
        raise InputError(f"{path}: can time float images of a fixed size only, found {found}")
    if batch is not None and set(settings.batch_sizes) != {batch}:
        raise InputError(f"{path}: has a fixed batch size of {batch}; set bench.batch_sizes to [{batch}]")
    return _Loaded(session, found, path, provider)


def _at_batch(loaded: Mapping[str, _Loaded], batch: int, seconds: float) -> list[BenchRow]:
    runs = [_prepare(item, batch) for item in loaded.values()]
    for item, run in zip(loaded.values(), runs, strict=True):
        _warm_up(item, run, seconds / len(runs))
    latencies = interleaved_seconds(runs, seconds=seconds)
    rows = []
    for index, (label, item) in enumerate(loaded.items()):
        ratio = paired_ratio(latencies[:, 0], latencies[:, index]) if index else None
        rows.append(_row(label, item, batch, latencies[:, index], ratio))
    return rows


def _prepare(item: _Loaded, batch: int) -> Callable[[], object]:
    # The same images for every file, made before the clock starts.
    shape = (batch, *(size or 0 for size in item.signature.input_shape[1:]))
    images = np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)
    feed = {item.signature.input_name: images.astype(_INPUT_TYPES[item.signature.input_type])}
    return partial(item.session.run, None, feed)


def _warm_up(item: _Loaded, run: Callable[[], object], seconds: float) -> None:
    try:
        warm_up(run, seconds=seconds)
    except ort.ORT_ERRORS as error:
        raise InputError(f"{item.path}: onnxruntime cannot run it: {error}") from error


def _row(
    label: str, item: _Loaded, batch: int, latencies: npt.NDArray[np.float64], ratio: Ratio | None
) -> BenchRow:
    median, p95 = np.percentile(latencies, [50, 95]).tolist()
    shown = ratio or Ratio(1.0, 1.0, 1.0)
    return BenchRow(
        file=label,
        bytes=item.path.stat().st_size,
        provider=item.provider,
        batch=batch,
        median_ms=median * 1e3,
        p95_ms=p95 * 1e3,
        images_per_second=batch / median,
        speedup_vs_target=shown.median,
        ratio_low=shown.low,
        ratio_high=shown.high,
        runs=len(latencies),
        verdict="target" if ratio is None else _verdict(ratio),
    )


def _verdict(ratio: Ratio) -> Verdict:
    if ratio.median <= NO_GAIN:
        return "no gain"
    return "unclear" if ratio.low <= 1 else "gain"
