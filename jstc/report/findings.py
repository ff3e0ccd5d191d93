"""Findings on a run: a fact, whether it is good, and a plain sentence.

They are made here once, and shown by the terminal, the Markdown and the page. Those that a reader of the
figures has to know (what is missing and why, what is in doubt) are the `notes` of summary.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from jstc.core import numbers
from jstc.core.accuracy import Accuracy
from jstc.core.numbers import count, percent, points, share
from jstc.ort.doubts import speed_of
from jstc.report import accuracies
from jstc.report.accuracies import emitted_findings
from jstc.report.finding import Finding, State, Wanted
from jstc.report.speed import busy_of_all, measuring_findings, speed_findings
from jstc.summary import (
    BoundFigures,
    BudgetFigures,
    BudgetRow,
    Latency,
    Network,
    OnnxFile,
    Summary,
    SweepSummary,
    Timing,
)

__all__ = [
    "BUDGETS",
    "Finding",
    "Wanted",
    "allowed",
    "amount",
    "common_notes",
    "findings",
    "images_finding",
    "notes",
    "sweep_findings",
    "told_of",
]

BUDGETS = {"flops": "FLOPs", "params": "parameters", "latency": "latency"}
"""Metrics that a budget can bound, and what they are called."""

_NOISE = 1.05  # a measured latency up to here over the limit meets it: it is predicted, and measured again
_ACCURACY_LIMIT = 0.001
_ROUNDING = 1e-9  # of fractions of whole numbers of images, in percentage points


def findings(summary: Summary, wanted: Wanted) -> list[Finding]:
    """Everything that can be said of a run with one budget, in the order in which it is to be read."""
    return [
        *_missing_stages(summary, wanted.states or {}),
        *_size(summary),
        *accuracies.of_network(summary),
        *accuracies.of_target(summary, wanted),
        *_unknown_operations(summary),
        *_budget(summary),
        *_timed_again(summary),
        *_search(summary),
        *_images(summary),
        *images_finding(summary.unreadable_images, summary.finetune.test_images),
        *_kernels(summary),
        *_files(summary, wanted),
        *speed_findings(summary),
        *measuring_findings(summary, automatic_provider=wanted.automatic_provider),
    ]


def notes(found: Sequence[Finding]) -> list[str]:
    """The sentences of those that a reader has to know."""
    return [finding.sentence for finding in found if finding.note]


def told_of(found: Sequence[Finding]) -> dict[str, list[str]]:
    """What summary.json tells of findings: the notes, and those of them that are more than remarks."""
    return {"notes": notes(found), "warnings": notes([one for one in found if one.state in ("warn", "bad")])}


def amount(metric: str | None, value: float | None) -> str:
    """`20.5 M FLOPs`, `2.00 ms`."""
    if metric == "latency":
        return numbers.milliseconds(value)
    return f"{count(value)} {BUDGETS.get(metric or '', metric)}"


def allowed(budget: BudgetFigures) -> str:
    """`20.5 M FLOPs and 100 k parameters`."""
    return " and ".join(amount(bound.metric, bound.limit) for bound in budget.each)


def within(metric: str | None, value: float, limit: float) -> bool:
    """Whether a bound is met; a latency within the 5 % that predictions are meant to."""
    return value <= limit * (_NOISE if metric == "latency" else 1)


# --- the network ------------------------------------------------------------------------------------------

_MISSING = {
    "search": "there is no plan",
    "finetune": "the sub-network has not been trained to the end",
    "slim": "the slim network's figures are missing",
    "export": "there is no ONNX file",
    "bench": "no latency was measured",
}
_STATES = {"failed": "failed", "running": "has not finished"}


def _missing_stages(summary: Summary, states: Mapping[str, str]) -> Iterator[Finding]:
    there = {
        "search": summary.plan_hash,
        "finetune": summary.finetune.epochs is not None,
        "slim": summary.slim.flops,
        "export": summary.onnx,
        "bench": summary.bench,
    }
    for name, found in there.items():
        if not found:
            told = f"{name} {_STATES.get(states.get(name, ''), 'has not run')}: {_MISSING[name]}."
            yield Finding("Stages", "bad" if states.get(name) == "failed" else "warn", told, note=True)


def _size(summary: Summary) -> Iterator[Finding]:
    slim, target = summary.slim, summary.target
    if slim.flops is None or slim.params is None:
        yield Finding("Slim network", "neutral", "There is no slim network yet.")
        return
    both = (("FLOPs", slim.flops, target.flops), ("Parameters", slim.params, target.params))
    for fact, kept, whole in both:
        told = f"{share(kept, whole)} of the target network's {count(whole)}."
        yield Finding(fact, "neutral", told, count(kept))


def _unknown_operations(summary: Summary) -> Iterator[Finding]:
    if summary.unknown_operations:
        names = ", ".join(f"{name} ({times})" for name, times in summary.unknown_operations.items())
        told = f"Operations without a rule for channels, which keep whole what they touch: {names}."
        yield Finding("Channels", "warn", told, note=True)


def _budget(network: Network) -> Iterator[Finding]:
    every = network.budget.each
    for bound in every:
        what = BUDGETS.get(bound.metric or "", bound.metric)
        latency = "Latency budget" if bound.metric == "latency" else ""
        fact = latency or ("Budget" if len(every) == 1 else f"Budget of {what}")
        if bound.limit:
            yield _bound(network, bound, fact, bound.limit)


def _bound(network: Network, bound: BoundFigures, fact: str, limit: float) -> Finding:
    metric, value = bound.metric, network.used(bound)
    if value is None:
        return Finding(fact, "neutral", f"{amount(metric, limit)} allowed, nothing known yet.", "not known")
    if within(metric, value, limit):
        return _met(network, bound, fact, value, limit)
    taken, most = f"{value:,.0f} {metric}", f"{limit:,.0f}"
    if metric == "latency":
        taken, most = f"it takes {numbers.milliseconds(value)}", numbers.milliseconds(limit)
    told = f"The slim network is over its budget: {taken}, where {most} are allowed."
    return Finding(fact, "bad", told, f"exceeded: {share(value, limit)}", note=True)


def _met(network: Network, bound: BoundFigures, fact: str, value: float, limit: float) -> Finding:
    metric, used = bound.metric, share(value, limit)
    if metric != "latency":
        return Finding(fact, "good", f"{used} of {amount(metric, limit)} is used.", "met")
    found = network.latency or Latency()
    known = (("predicted", found.predicted_ms), ("measured", found.measured_ms))
    told = ", ".join(f"{numbers.milliseconds(ms)} {how}" for how, ms in known if ms is not None)
    told += f"; {numbers.milliseconds(limit)} allowed: {used} of it is used."
    if found.measured_ms is None:
        return Finding(fact, "warn", f"{told} It has not been measured.", "met as predicted")
    return Finding(fact, "good", told, "met")


def _timed_again(summary: Summary) -> Iterator[Finding]:
    """What bench has measured, where that is over a budget of latency that was met before."""
    limit = next((b.limit for b in summary.budget.each if b.metric == "latency"), None)
    met = summary.latency or Latency()
    if limit is None or met.measured_ms is None or not within("latency", met.measured_ms, limit):
        return
    row = next((r for r in summary.slim_rows if (r.provider, r.batch) == (met.provider, met.batch)), None)
    if row is None or row.median_ms is None or within("latency", row.median_ms, limit):
        return
    told = (
        f"bench measured {numbers.milliseconds(row.median_ms)}, {row.median_ms / limit - 1:.0%} over the "
        f"{numbers.milliseconds(limit)} that are allowed."
    )
    before = summary.target_row(row)
    if met.target_ms and before is not None:
        told += (
            f" The target network took {numbers.milliseconds(before.median_ms)} beside it, and "
            f"{numbers.milliseconds(met.target_ms)} when the widths were chosen: see whether the machine was "
            "busy, or slower, at one of the two."
        )
    yield Finding("Latency in bench", "warn", told, "over the budget", note=True)


def _search(summary: Summary) -> Iterator[Finding]:
    rounds, sharing = summary.search.rounds, summary.search.shared_by
    if sharing:
        told = f"The search, its {_rounds(rounds)} and its time, was one for all of {', '.join(sharing)}."
        yield Finding("Search", "neutral", told, note=True)
    if summary.search.settled is False:
        spent = f"the {_rounds(rounds)} of the search were spent (search.rounds)"
        told = f"The plan was still changing when {spent}."
        yield Finding("Search", "warn", told, note=True)


def _rounds(number: int | None) -> str:
    return "1 round" if number == 1 else f"{number} rounds"


def _images(summary: Summary) -> Iterator[Finding]:
    sentence = summary.input.sentence
    if sentence:
        yield Finding("Images", "neutral", f"Images: {sentence}.")


def images_finding(images: int, tested: int | None = None) -> Iterator[Finding]:
    """A finding on images that could not be read, when `tested` ones of the test split could."""
    if images:
        left = "" if tested is None else f"; accuracies are those of the {tested:,} test images that could"
        told = f"Images that could not be read, listed in corrupt.jsonl: {images:,}{left}."
        yield Finding("Images", "warn", told, note=True)


def _kernels(summary: Summary) -> Iterator[Finding]:
    """Layers that the self-test had computed in another form, those of one number format together."""
    for dtype in dict.fromkeys(row["dtype"] for row in summary.kernels):
        rows = [row for row in summary.kernels if row["dtype"] == dtype]
        names = sorted({name for row in rows for name in row["layers"] or [row["call"]]})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        wrong = ", ".join(sorted({part for row in rows for part in row["wrong"]}))
        forms = " or ".join(dict.fromkeys(row["form"] for row in rows))
        told = f"On the machine of this run torch computes some layers wrong in {dtype} ({wrong}): "
        told += f"{', '.join(names[:3])}{more}. They were computed in {forms} instead."
        yield Finding("Kernels", "warn", told, note=True)


# --- its files --------------------------------------------------------------------------------------------


def _files(summary: Summary, wanted: Wanted) -> Iterator[Finding]:
    if summary.files and summary.files[0].bytes is not None:
        file, before = summary.files[0], summary.target_bytes
        beside = f", {share(file.bytes, before)} of the target network's {numbers.bytesize(before)}"
        told = f"The {file.precision} file{beside if before else ''}."
        yield Finding("ONNX file", "neutral", told, numbers.bytesize(file.bytes))
    yield from emitted_findings(summary)
    yield from (found for file in summary.files if (found := _file_accuracy(file, summary, wanted)))
    limit = wanted.max_accuracy_drop
    if limit is not None and any(file.accuracy is not None for file in summary.files):
        unit = "point" if limit == 1 else "points"
        told = f"The limit of files: {limit:g} {unit} below torch at most (export.max_accuracy_drop)."
        yield Finding("Files", "neutral", told)


def _file_accuracy(file: OnnxFile, summary: Summary, wanted: Wanted) -> Finding | None:
    slim, limit = summary.slim.accuracy, wanted.max_accuracy_drop
    slim = slim if file.torch_accuracy is None else file.torch_accuracy
    if file.accuracy is None or slim is None:
        return None
    bad = limit is not None and 100 * (slim - file.accuracy) > limit + _ROUNDING
    differs = abs(file.accuracy - slim) > _ACCURACY_LIMIT
    moved = points(file.accuracy, slim)
    images = file.test_images or summary.finetune.test_images
    scored = percent(file.accuracy, Accuracy(file.accuracy, images).error)
    told = f"{file.file} scores {scored}, {moved} from torch."
    # A file that answers as torch does is in as much doubt as the network in torch.
    in_doubt = summary.scored is not None and summary.scored.doubt is not None
    state: State = "bad" if bad else "warn" if in_doubt else "good"
    return Finding(f"{file.precision} file", state, told, scored, note=differs)


# --- several budgets --------------------------------------------------------------------------------------


def sweep_findings(summary: SweepSummary) -> list[Finding]:
    """A finding for every budget, and what they are to be compared with."""
    found = [_one_budget(row, summary) for row in summary.sweep]
    before, alone = (summary.references.get(name) for name in ("given network", "trained alone"))
    if all(row.slim.accuracy is None for row in summary.sweep):
        return [Finding("Slim networks", "neutral", "There is no slim network yet."), *found]
    if before is not None:
        told = "The accuracy of the given network as it came, which changes are counted from."
        found.append(Finding("Given network", "warn" if before.doubt else "neutral", told, before.text))
    if alone is not None:
        start = "" if before is None else " from the same weights"
        told = (
            f"The target network, trained alone{start} {accuracies.as_long(summary)}, reaches {alone.text}."
        )
        found.append(Finding("Target network", "warn" if alone.doubt else "neutral", told, alone.text))
    return found


def _one_budget(row: BudgetRow, summary: SweepSummary) -> Finding:
    every = [(bound.metric, row.used(bound), bound.limit) for bound in row.budget.each]
    taken = [(metric, value, limit) for metric, value, limit in every if value is not None and limit]
    if not taken:
        return Finding(row.label, "neutral", "There is no slim network for this budget yet.", "not known")
    met = all(within(*one) for one in taken)
    speeds = [speed_of(row, one, summary.target) for one in row.slim_rows]
    faster = not row.bench or any(one.standing == "gain" for one in speeds)
    uncertain = any(one.standing == "uncertain" for one in speeds)
    names = ["budget"] if len(every) == 1 else [f"{BUDGETS.get(one[0] or '')} allowed" for one in taken]
    told = [f"{share(one[1], one[2])} of the {name}" for one, name in zip(taken, names, strict=True)]
    if row.scored is not None:
        change = next(iter(accuracies.changes(summary, row).values()), None)
        told.append(f"{row.scored.text} top-1" + (f" ({change})" if change else ""))
    if row.slim.flops is not None:
        told.append(f"{count(row.slim.flops)} of {count(summary.target.flops)} FLOPs")
    told += [f"{one.text} {one.row.provider}, batch {one.row.batch}{one.mark}" for one in speeds]
    doubtful = bool(accuracies.doubts(summary, row))
    state: State = "bad" if not met else "good" if faster and not uncertain and not doubtful else "warn"
    figure = ["exceeded" if not met else "met"]
    if met and not (faster and not uncertain):
        figure.append("speed uncertain" if uncertain else "not faster")
    if doubtful:
        figure.append("accuracy in doubt")
    return Finding(row.label, state, "; ".join(told) + ".", ", ".join(figure))


def common_notes(
    children: Mapping[str, Sequence[Finding]], rows: Mapping[str, Sequence[Timing]]
) -> list[Finding]:
    """The notes of all budgets, with what was timed: what is said of each once, the rest with its budget."""
    told = {label: [one for one in found if one.note and not one.topic] for label, found in children.items()}
    everywhere = set.intersection(*({one.sentence for one in found} for found in told.values()))
    shared = [one for one in next(iter(told.values())) if one.sentence in everywhere]
    own = [
        replace(one, sentence=f"{label}: {one.sentence}")
        for label, found in told.items()
        for one in found
        if one.sentence not in everywhere
    ]
    return [replace(one, figure="") for one in (*shared, *own, *busy_of_all(rows))]
