"""Findings on speed: how much faster each file is, where that is in doubt, what disturbed the measuring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jstc.core.numbers import ratio
from jstc.report.finding import Finding, State
from jstc.report.tables import ideal_speedup
from jstc.summary import Summary, Timing

__all__ = ["doubt", "measuring_findings", "speed_findings"]

_FEW = 2
_DOUBTS = {"no gain": "no gain", "unclear": "within the noise"}


def speed_findings(summary: Summary) -> Iterator[Finding]:
    """Speed-ups of each file, and once more those that are none or may be none, with their intervals."""
    for file in summary.files:
        rows = [row for row in summary.compared_rows if row.file == file.file]
        if rows:
            yield _speed_of(f"Speed, {file.precision}", rows, ideal_speedup(summary, summary.target))
    alike: dict[tuple[str, str, str | None], list[Timing]] = {}
    for row in summary.bench:
        if row.verdict in _DOUBTS:
            alike.setdefault((row.verdict, row.file, row.provider), []).append(row)
    for (verdict, file_name, provider), same in alike.items():
        said = {"no gain": "No gain in speed", "unclear": "The gain in speed is within the noise"}[verdict]
        told = [_with_interval(row) for row in same]
        each = [f"{text} at batch {row.batch}" for text, row in zip(told, same, strict=True)]
        if len(same) == 1:
            text = f"{said}: {file_name} at batch {same[0].batch} on {provider} measures {told[0]}."
        else:
            text = f"{said}: {file_name} on {provider} measures {', '.join(each)}."
        yield Finding("Speed", "warn", text, note=True)


def _speed_of(fact: str, rows: Sequence[Timing], ideal: float | None) -> Finding:
    real, speedups = sum(row.is_gain for row in rows), sorted(row.speedup or 0.0 for row in rows)
    unclear = any(row.verdict == "unclear" for row in rows)
    state: State = "good" if real == len(rows) else "warn" if real or unclear else "bad"
    word = {"good": "Faster", "bad": "Not faster"}.get(state, "Unclear")
    told = f"Faster in {real} of {len(rows)}" if state == "warn" and real else word
    told += f": {', '.join(_told_by_provider(rows))}, beside the target network in onnxruntime"
    told += f"; the FLOPs alone would suggest {ratio(ideal)}." if ideal else "."
    ends = dict.fromkeys(ratio(end) for end in (speedups[0], speedups[-1]))
    return Finding(fact, state, told, " to ".join(ends))


def _told_by_provider(rows: Sequence[Timing]) -> Iterator[str]:
    """A phrase for each provider; a range where it was timed at more than two batch sizes."""
    for provider in dict.fromkeys(row.provider for row in rows):
        own = [row for row in rows if row.provider == provider]
        each = [f"{ratio(row.speedup)} at batch {row.batch}{doubt(row)}" for row in own]
        yield (_range(own) if len(own) > _FEW else " and ".join(each)) + f" on {provider}"


def _range(rows: Sequence[Timing]) -> str:
    speedups, batches = [row.speedup or 0.0 for row in rows], [row.batch or 0 for row in rows]
    doubtful = sum(row.verdict in _DOUBTS for row in rows)
    doubt = f" (no gain, or none beyond the noise, at {doubtful} of {len(rows)})" if doubtful else ""
    span = f"{min(speedups):.2f}x to {max(speedups):.2f}x"
    return f"{span} at batch {min(batches)} to {max(batches)}{doubt}"


def doubt(row: Timing) -> str:
    return f" ({_DOUBTS[row.verdict]})" if row.verdict in _DOUBTS else ""


def _with_interval(row: Timing) -> str:
    low, high = row.ratio_low, row.ratio_high
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return ratio(row.speedup_vs_target) + interval


def measuring_findings(summary: Summary, *, automatic_provider: bool) -> Iterator[Finding]:
    """Disturbances of the measuring, and what was not measured."""
    places = [f"{row.provider}, batch {row.batch}" for row in summary.bench if row.steady is False]
    if places:
        told = f"Latencies had not settled before the measuring ({'; '.join(dict.fromkeys(places))}): "
        yield Finding("Measuring", "warn", f"{told}the machine may have been busy.", note=True)
    elsewhere = {(row.file, row.provider): row.nodes_elsewhere or {} for row in summary.bench}
    for (file, provider), others in elsewhere.items():
        named = ", ".join(f"{nodes} nodes by {other}" for other, nodes in others.items())
        if named:
            told = f"On {provider}, some of {file} is run by others: {named}."
            yield Finding("Measuring", "warn", told, note=True)
    yield from _left_out(summary)
    problem = (summary.environment.get("providers") or {}).get("cuda", "usable")
    if summary.bench and automatic_provider and problem != "usable":
        yield Finding("Measuring", "neutral", f"CUDA was not measured: {problem}.", note=True)


def _left_out(summary: Summary) -> Iterator[Finding]:
    """Files, providers and batch sizes that were asked for and not measured, those of one reason together."""
    found: dict[tuple[str | None, int | None, str | None], list[str]] = {}
    for entry in summary.skipped:
        found.setdefault((entry.provider, entry.batch, entry.reason), []).append(entry.file or "all files")
    for (provider, batch, reason), names in found.items():
        where = f" at batch {batch}" if batch is not None else ""
        where += f" on {provider}" if provider else ""
        told = f"Not measured: {', '.join(names)}{where}: {reason}."
        yield Finding("Measuring", "neutral", told, note=True)
