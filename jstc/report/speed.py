"""Findings on speed: how much faster each file is, where that is in doubt, what disturbed the measuring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from jstc.core.numbers import ratio
from jstc.ort.doubts import NO_GAIN, WORDS, Speed, Standing, disturbance, most, speed_of
from jstc.report.finding import Finding, State
from jstc.report.tables import ideal_speedup
from jstc.summary import Summary, Timing

__all__ = ["busy_of_all", "measuring_findings", "speed_findings"]

_FEW = 2
_SAID: dict[Standing, str] = {
    "no gain": "No gain in speed",
    "unclear": "The gain in speed is within the noise",
    "uncertain": "How much faster is uncertain",
}


def speed_findings(summary: Summary) -> Iterator[Finding]:
    """Speed-ups of each file, and once more those that are none or in doubt, with intervals and reasons."""
    for file in summary.files:
        rows = [row for row in summary.compared_rows if row.file == file.file]
        if rows:
            speeds = [speed_of(summary, row, summary.target) for row in rows]
            yield _speed_of(f"Speed, {file.precision}", speeds, ideal_speedup(summary, summary.target))
    alike: dict[tuple[Standing, str, str | None], list[Speed]] = {}
    for row in summary.compared_rows:
        one = speed_of(summary, row, summary.target)
        if one.standing in _SAID:
            alike.setdefault((one.standing, row.file, row.provider), []).append(one)
    for (standing, file_name, provider), same in alike.items():
        batch = f" at batch {same[0].row.batch}" if len(same) == 1 else ""
        each = [one.with_interval + ("" if batch else f" at batch {one.row.batch}") for one in same]
        # Reasons stand behind each figure where there are several, or else at the end.
        why = [one.reasons for one in same]
        if len({*why}) > 1:
            each = [f"{text} ({reason})" if reason else text for text, reason in zip(each, why, strict=True)]
        end = f"; up to {NO_GAIN}x counts as none" if any(one.is_small_gain for one in same) else ""
        if len({*why}) == 1 and why[0]:
            figures = "the figure is" if len(same) == 1 else "the figures are"
            # No gain has other causes than what makes its figure doubtful.
            end += f": {why[0]}" if standing == "uncertain" else f"; {figures} uncertain: {why[0]}"
        text = f"{_SAID[standing]}: {file_name}{batch} on {provider} measures {', '.join(each)}{end}."
        yield Finding("Speed", "warn", text, note=True)


def _speed_of(fact: str, speeds: Sequence[Speed], ideal: float | None) -> Finding:
    certain = sum(one.standing == "gain" for one in speeds)
    none = all(one.standing == "no gain" and not one.doubts for one in speeds)
    state: State = "good" if certain == len(speeds) else "bad" if none else "warn"
    uncertain = any(one.standing == "uncertain" for one in speeds)
    word = {"good": "Faster: ", "bad": "Not faster: "}.get(state, "" if uncertain else "Unclear: ")
    told = f"Faster in {certain} of {len(speeds)}: " if state == "warn" and certain else word
    told += f"{', '.join(_told_by_provider(speeds))}, beside the target network in onnxruntime"
    told = told[0].upper() + told[1:]
    told += f"; the FLOPs alone would suggest {ratio(ideal)}." if ideal else "."
    return Finding(fact, state, told, _figure(speeds) + (", uncertain" if uncertain else ""))


def _figure(speeds: Sequence[Speed]) -> str:
    """`1.46x`, `1.02x to 1.46x`, `about 1.2x to 5x`."""
    ordered = sorted(speeds, key=lambda one: one.row.speedup or 0.0)
    ends = (ordered[0], ordered[-1])
    text = " to ".join(dict.fromkeys(one.figure for one in ends))
    return f"about {text}" if any(one.is_wide for one in ends) else text


def _told_by_provider(speeds: Sequence[Speed]) -> Iterator[str]:
    """A phrase for each provider; a range where it was timed at more than two batch sizes."""
    for provider in dict.fromkeys(one.row.provider for one in speeds):
        own = [one for one in speeds if one.row.provider == provider]
        each, doubts = [f"{one.text} at batch {one.row.batch}" for one in own], [_doubt(one) for one in own]
        if len(own) > _FEW:
            yield f"{_range(own)} on {provider}"
        elif len(own) > 1 and len({*doubts}) == 1:
            yield f"{' and '.join(each)} on {provider}{doubts[0]}"
        else:
            yield " and ".join(map("".join, zip(each, doubts, strict=True))) + f" on {provider}"


def _range(speeds: Sequence[Speed]) -> str:
    batches = [one.row.batch or 0 for one in speeds]
    counts = (
        ("no gain, or none beyond the noise,", sum(one.standing in ("no gain", "unclear") for one in speeds)),
        ("uncertain", sum(one.standing == "uncertain" for one in speeds)),
    )
    doubts = [f"{what} at {times} of {len(speeds)}" for what, times in counts if times]
    text = f"{_figure(speeds)} at batch {min(batches)} to {max(batches)}"
    return f"{text} ({'; '.join(doubts)})" if doubts else text


def _doubt(one: Speed) -> str:
    """Doubts about a figure, in brackets."""
    if one.standing == "gain":
        return ""
    parts = [] if one.standing == "uncertain" else [WORDS[one.standing]]  # for which there are reasons
    if one.is_wide:
        parts.append(f"between {ratio(one.row.ratio_low)} and {ratio(one.row.ratio_high)}")
    parts += [doubt.text for doubt in one.doubts if doubt.kind != "wide"]
    return f" ({', '.join(parts)})"


def measuring_findings(summary: Summary, *, automatic_provider: bool) -> Iterator[Finding]:
    """Disturbances of the measuring, and what was not measured."""
    yield from _busy(summary.bench)
    places = [f"{row.provider}, batch {row.batch}" for row in summary.bench if row.steady is False]
    if places:
        known = any(disturbance(row).is_busy for row in summary.bench)  # and said
        guess = "" if known else ": the machine may have been busy"
        told = f"Latencies had not settled before the measuring ({'; '.join(dict.fromkeys(places))}){guess}."
        yield Finding("Measuring", "warn", told, note=True)
    elsewhere = {(row.file, row.provider): row.nodes_elsewhere or {} for row in summary.bench}
    for (file, provider), others in elsewhere.items():
        named = ", ".join(f"{nodes} nodes by {other}" for other, nodes in others.items())
        if named:
            told = f"On {provider}, some of {file} is run by others: {named}."
            yield Finding("Measuring", "warn", told, note=True)
    yield from _left_out(summary)
    problem = (summary.environment.get("providers") or {}).get("cuda", "usable")
    # Where there is no GPU nobody waits for it; the machine is described on the page.
    if summary.bench and automatic_provider and problem != "usable" and summary.environment.get("gpus"):
        yield Finding("Measuring", "neutral", f"CUDA was not measured: {problem}.", note=True)


def _busy(rows: Sequence[Timing]) -> Iterator[Finding]:
    """The machine had other work meanwhile: at which places where files were timed, and at most how much."""
    found = {f"{row.provider}, batch {row.batch}": disturbance(row) for row in rows}
    busy = {place: one for place, one in found.items() if one.is_busy}
    if busy:
        up_to = "up to " if len(busy) > 1 else ""
        told = f"The machine was busy while latencies were measured ({'; '.join(busy)}): "
        told += f"{most(list(busy.values())).words(up_to)}."
        yield Finding("Measuring", "warn", told, note=True, topic="busy")


def busy_of_all(rows: Mapping[str, Sequence[Timing]]) -> Iterator[Finding]:
    """Disturbances of the measuring of several budgets, by their names, in one sentence."""
    labels = [label for label, own in rows.items() if any(disturbance(row).is_busy for row in own)]
    for one in _busy([row for label in labels for row in rows[label]]):
        where = f"{', '.join(labels)}: " if len(labels) < len(rows) else ""
        yield replace(one, sentence=where + one.sentence)


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
