"""The target network beside the slim ones, as text cells: for the reports and for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jstc.core.accuracy import Accuracy, difference
from jstc.core.numbers import UNKNOWN, bytesize, count, milliseconds, share
from jstc.ort.doubts import speed_of
from jstc.summary import BudgetRow, Network, Summary, SweepSummary, Target, Timing

__all__ = ["TableRow", "ideal_share", "ideal_speedup", "of_target", "sweep_table", "table", "target_latency"]

_CHANGE, _FILE = 4, 5  # columns: the unit of the one and all of the other have no room on a terminal


class TableRow(NamedTuple):
    """One figure of both networks, and what became of it."""

    label: str
    target: str
    slim: str
    change: str


def ideal_speedup(network: Network, target: Target) -> float | None:
    """The speed-up that the FLOPs alone would suggest."""
    return target.flops / network.slim.flops if network.slim.flops and target.flops else None


def ideal_share(row: Timing, ideal: float | None) -> float | None:
    """The part of the ideal speed-up that was reached: as measured, or by the ratio of the FLOPs."""
    if row.ideal_share is not None:
        return row.ideal_share
    return row.speedup_vs_target / ideal if ideal and row.speedup_vs_target else None


def table(summary: Summary) -> list[TableRow]:
    """FLOPs, parameters, accuracy, file size and latencies; a dash for what is not known."""
    target, slim, most = summary.target, summary.slim, _allowed(summary)
    flops, params = share(slim.flops, target.flops), share(slim.params, target.params)
    rows = [
        TableRow("FLOPs", count(target.flops), count(slim.flops), flops + most.get("flops", "")),
        TableRow("Parameters", count(target.params), count(slim.params), params + most.get("params", "")),
        *_budget_of_latency(summary, most),
        *_accuracies(summary),
    ]
    if summary.files:
        before, after = summary.target_bytes, summary.files[0].bytes
        rows.append(TableRow("ONNX file", bytesize(before), bytesize(after), share(after, before)))
    return rows + [_latency(summary, row) for row in summary.slim_rows]


def _allowed(summary: Summary) -> dict[str | None, str]:
    """Text behind the figures that have one of several bounds: the share that is allowed, by metric."""
    every = summary.budget.each
    return {bound.metric: f", at most {share(bound.share)}" for bound in every if len(every) > 1}


def _budget_of_latency(summary: Summary, most: Mapping[str | None, str]) -> Iterator[TableRow]:
    """A row for the latency that the search has measured, where that is one of several bounds."""
    found = summary.latency
    if found is not None and "latency" in most:
        reached = found.predicted_ms if found.measured_ms is None else found.measured_ms
        change = share(reached, found.target_ms) + most["latency"]
        yield TableRow("Latency, by the search", milliseconds(found.target_ms), milliseconds(reached), change)


def _accuracies(summary: Summary) -> Iterator[TableRow]:
    """A row for each accuracy that the slim network's is compared with."""
    slim, several = summary.scored, summary.target.accuracy_before is not None
    own = UNKNOWN if slim is None else slim.text
    if not summary.references:
        yield TableRow("Top-1, test split", UNKNOWN, own, UNKNOWN)
    for name, before in summary.references.items():
        change = UNKNOWN if slim is None else difference(slim, before).text
        yield TableRow(f"Top-1, {name}" if several else "Top-1, test split", before.text, own, change)


def _latency(summary: Summary, row: Timing) -> TableRow:
    beside = summary.target_row(row)
    label = f"Latency, batch {row.batch}, {row.provider}"
    before = milliseconds(beside.median_ms if beside else None)
    found = speed_of(summary, row, summary.target)
    return TableRow(label, before, milliseconds(row.median_ms), f"{found.text}{found.mark or ' the speed'}")


# --- several budgets --------------------------------------------------------------------------------------


def sweep_table(summary: SweepSummary, *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
    """The header, rows for the target network and one for every budget; a dash for what is not known.

    With given weights there are two of the target network, as it came and trained alone, and changes are from
    the first.
    As it stands it fits on a terminal of 80 columns, with a latency for the target and speed-ups for the
    others, those in doubt with a question mark; when `wide`, it has all latencies, the sizes of the files,
    the shares of the target network's counts, and what the doubt is.
    """
    batches = sorted({row.batch for one in summary.sweep for row in one.bench if row.batch is not None})
    header = ["budget", "FLOPs", "params", "top-1", "change", "ONNX file", *[f"batch {n}" for n in batches]]
    rows = [
        *_target_rows(summary, batches, wide),
        *[_slim_cells(summary, one, batches, wide) for one in summary.sweep],
    ]
    return (header, rows) if wide else (_narrow(header), [_narrow(row) for row in rows])


def _narrow(cells: list[str]) -> list[str]:
    change = cells[_CHANGE].removesuffix(" points")
    return [*cells[:_CHANGE], change, *cells[_FILE + 1 :]]


def _target_rows(summary: SweepSummary, batches: Sequence[int], wide: bool) -> list[list[str]]:
    given, alone = (summary.references.get(name) for name in ("given network", "trained alone"))
    if given is None:
        return [_target_cells(summary, batches, "target", alone, wide)]
    rows = [_target_cells(summary, batches, "given", given, wide)]
    if alone is not None:
        cells = _target_cells(summary, batches, "trained alone", alone, wide)
        rows.append([*cells[:_CHANGE], difference(alone, given).text, *cells[_CHANGE + 1 :]])
    return rows


def _target_cells(
    summary: SweepSummary, batches: Sequence[int], label: str, accuracy: Accuracy | None, wide: bool
) -> list[str]:
    target = summary.target
    timed = [row for one in summary.sweep for row in one.target_rows]
    sizes = [row.bytes for row in timed if row.batch == min(batches)] if batches else []
    return [
        label,
        count(target.flops),
        count(target.params),
        UNKNOWN if accuracy is None else accuracy.text,
        "",
        bytesize(sizes[0] if sizes else None),
        *[target_latency([row for row in timed if row.batch == batch], wide=wide) for batch in batches],
    ]


def target_latency(rows: Sequence[Timing], *, wide: bool = True) -> str:
    """`1.24 to 1.31 ms`: each budget has timed the target network once more; the middle unless `wide`."""
    known = sorted(row.median_ms for row in rows if row.median_ms is not None)
    if not wide:
        return milliseconds(statistics.median(known) if known else None)
    ends = list(dict.fromkeys(milliseconds(end) for end in (known[0], known[-1]))) if known else [UNKNOWN]
    return " to ".join([*(end.removesuffix(" ms") for end in ends[:-1]), ends[-1]])


def _slim_cells(summary: SweepSummary, one: BudgetRow, batches: Sequence[int], wide: bool) -> list[str]:
    slim, target, scored, before = one.slim, summary.target, one.scored, summary.reference
    counts = [
        count(kept) + (f" ({share(kept, whole)})" if wide and kept else "")
        for kept, whole in ((slim.flops, target.flops), (slim.params, target.params))
    ]
    return [
        one.label,
        *counts,
        UNKNOWN if scored is None else scored.text,
        difference(scored, before).text if scored is not None and before is not None else UNKNOWN,
        bytesize(one.onnx[0].bytes if one.onnx else None),
        *[_speed_cell(target, one, batch, wide) for batch in batches],
    ]


def _speed_cell(target: Target, one: BudgetRow, batch: int, wide: bool) -> str:
    rows = [row for row in one.compared_rows if row.batch == batch]
    if not rows:
        return UNKNOWN
    found = speed_of(one, rows[0], target)
    if not wide:
        return found.figure + (" ?" if found.standing in ("uncertain", "unclear") else "")
    return f"{found.text}{found.mark}, {of_target(one, rows[0])}"


def of_target(network: Network, row: Timing) -> str:
    """`0.85 of 1.24 ms`: the two medians of one measurement; what other budgets' took is no part of it."""
    beside = network.target_row(row)
    if beside is None:
        return milliseconds(row.median_ms)
    return f"{milliseconds(row.median_ms).removesuffix(' ms')} of {milliseconds(beside.median_ms)}"
