"""The few figures that are read first, large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jstc.core import numbers
from jstc.report.notes import amount, speeds, used, within
from jstc.report.tables import file_rows, is_compared, network_files, slim_rows, target_bytes, target_row

__all__ = ["State", "Tile", "Verdict", "sweep_verdicts", "tiles", "verdicts"]

_MOST_SPEEDS = 2


@dataclass(frozen=True)
class Tile:
    """A figure of the slim network, with what it is to be compared with."""

    label: str
    big: str
    lines: tuple[str, ...]


def tiles(summary: dict[str, Any]) -> list[Tile]:
    """FLOPs, parameters, accuracy, the file's size, and the first speed-ups; without what is not known."""
    found = [
        _count(summary, "flops", "FLOPs"),
        _count(summary, "params", "Parameters"),
        _accuracy_tile(summary),
    ]
    found += [_size(summary), *(_speed_tile(summary, row) for row in _shown(slim_rows(summary)))]
    return [tile for tile in found if tile is not None]


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each provider; of a single provider, the first ones."""
    first = {row["provider"]: row for row in reversed(rows)}
    found = [row for row in rows if first[row["provider"]] is row]
    return (found if len(found) > 1 else rows)[:_MOST_SPEEDS]


def _count(summary: dict[str, Any], key: str, label: str) -> Tile | None:
    slim, target = summary["slim"][key], summary["target"][key]
    if slim is None:
        return None
    return Tile(label, numbers.count(slim), (f"{numbers.share(slim, target)} of {numbers.count(target)}",))


def _accuracy_tile(summary: dict[str, Any]) -> Tile | None:
    slim, target = summary["slim"]["accuracy"], summary["target"]["accuracy"]
    if slim is None:
        return None
    lines = (numbers.points(slim, target), f"target {numbers.percent(target)}") if target is not None else ()
    return Tile("Top-1, test split", numbers.percent(slim), lines)


def _size(summary: dict[str, Any]) -> Tile | None:
    if not network_files(summary):
        return None
    file = network_files(summary)[0]
    before = target_bytes(summary)
    lines = (f"{numbers.share(file['bytes'], before)} of {numbers.bytesize(before)}",) if before else ()
    return Tile(f"ONNX file, {file['precision']}", numbers.bytesize(file["bytes"]), lines)


def _speed_tile(summary: dict[str, Any], row: Mapping[str, Any]) -> Tile:
    doubt = row.get("verdict", "gain")
    before = target_row(summary, dict(row)).get("median_ms")
    lines = [numbers.milliseconds(row["median_ms"]), f"target {numbers.milliseconds(before)}"]
    lines += {"no gain": ["no gain"], "unclear": ["within the noise"]}.get(doubt, [])
    label = f"Speed, {row['provider']}, batch {row['batch']}"
    return Tile(label, numbers.ratio(row["speedup_vs_target"]), tuple(lines))


# What a reader wants to know first: is the budget met, are the files right, are they faster.

State = Literal["good", "doubt", "bad", "open"]

_ROUNDING = 1e-9  # of fractions of whole numbers of images, in percentage points


@dataclass(frozen=True)
class Verdict:
    """A question answered: `state` is the colour, `word` the answer in a word or two, `text` the figures."""

    state: State
    label: str
    word: str
    text: str


def verdicts(summary: dict[str, Any], recipe: Mapping[str, Any]) -> list[Verdict]:
    """All that can be answered of a run; what cannot is said to be open."""
    return [
        *_budget(summary),
        *_accuracy(summary),
        *_parity(summary, recipe),
        *_precisions(summary, recipe),
        *_speed(summary),
    ]


def _budget(summary: dict[str, Any]) -> Iterator[Verdict]:
    metric, limit, value = summary["budget"]["metric"], summary["budget"]["limit"], used(summary)
    label = "Latency budget" if metric == "latency" else "Budget"
    if metric is None or not limit:
        return
    if value is None:
        yield Verdict("open", label, "not known", f"{amount(metric, limit)} allowed, nothing known yet")
        return
    met = within(metric, value, limit)
    text = f"{numbers.share(value, limit)} of {amount(metric, limit)} used"
    state: State = "good" if met else "bad"
    if metric == "latency":
        text = _latency(summary, limit)
        state = "doubt" if met and summary["latency"].get("measured_ms") is None else state
    yield Verdict(state, label, "met" if met else "exceeded", text)


def _latency(summary: dict[str, Any], limit: float) -> str:
    """Predicted and measured, beside what is allowed."""
    known = [(how, summary["latency"].get(f"{how}_ms")) for how in ("predicted", "measured")]
    told = [f"{numbers.milliseconds(value)} {how}" for how, value in known if value is not None]
    return f"{', '.join(told)}; {numbers.milliseconds(limit)} allowed"


def _accuracy(summary: dict[str, Any]) -> Iterator[Verdict]:
    slim, target = summary["slim"]["accuracy"], summary["target"]["accuracy"]
    if slim is None:
        yield Verdict("open", "Accuracy", "not known", "the slim network has not been scored")
    elif target is None:
        text = "the target network was not trained alone, so there is nothing to compare with"
        yield Verdict("open", "Accuracy", numbers.percent(slim), text)
    else:
        text = f"{numbers.percent(slim)}; the target network trained alone has {numbers.percent(target)}"
        # A loss is a fact, not a fault: how much is too much is for the reader to say.
        state: State = "good" if slim >= target else "open"
        yield Verdict(state, "Accuracy", numbers.points(slim, target), text)


def _parity(summary: dict[str, Any], recipe: Mapping[str, Any]) -> Iterator[Verdict]:
    """Of the file whose arithmetic is torch's own."""
    limit = (recipe.get("export") or {}).get("max_abs_diff")
    for file in network_files(summary):
        if file["precision"] == "fp32" and file["max_abs_diff"] is not None:
            passed = limit is None or file["max_abs_diff"] <= limit
            text = f"logits within {numbers.tiny(file['max_abs_diff'])} of torch's"
            text += f" ({numbers.tiny(limit)} allowed)" if limit else ""
            yield Verdict("good" if passed else "bad", "Parity", "same" if passed else "differs", text)


def _precisions(summary: dict[str, Any], recipe: Mapping[str, Any]) -> Iterator[Verdict]:
    limit, slim = (recipe.get("export") or {}).get("max_accuracy_drop"), summary["slim"]["accuracy"]
    for file in network_files(summary):
        if file["accuracy"] is None or slim is None:
            continue
        lost = 100 * (slim - file["accuracy"])
        allowed = f" ({limit:g} allowed)" if limit is not None else ""
        text = f"{numbers.points(file['accuracy'], slim)} to torch on the test split{allowed}"
        bad = limit is not None and lost > limit + _ROUNDING
        yield Verdict(
            "bad" if bad else "good", f"{file['precision']} file", numbers.percent(file["accuracy"]), text
        )


def _speed(summary: dict[str, Any]) -> Iterator[Verdict]:
    for file in network_files(summary):
        rows = [row for row in file_rows(summary, file["file"]) if is_compared(summary, row)]
        if rows:
            yield _speed_of(file["precision"], rows)


def _speed_of(precision: str, rows: Sequence[dict[str, Any]]) -> Verdict:
    real = sum(row.get("verdict", "gain") == "gain" for row in rows)
    text = "; ".join(speeds(rows)).replace("**", "")
    if len({row["provider"] for row in rows}) == 1:
        text += f" on {rows[0]['provider']}"
    if real == len(rows):
        return Verdict("good", f"Speed, {precision}", "faster", text)
    if real:
        return Verdict("doubt", f"Speed, {precision}", f"faster in {real} of {len(rows)}", text)
    unclear = any(row.get("verdict") == "unclear" for row in rows)
    state: State = "doubt" if unclear else "bad"
    return Verdict(state, f"Speed, {precision}", "unclear" if unclear else "not faster", text)


# Of every budget: is it met, how accurate is its network, is it faster.


def sweep_verdicts(summary: dict[str, Any]) -> list[Verdict]:
    """A line for every budget."""
    return [_verdict(row, summary["target"]) for row in summary["sweep"]]


def _verdict(row: dict[str, Any], target: dict[str, Any]) -> Verdict:
    budget, slim = row["budget"], row["slim"]
    value = used(row)
    if value is None or not budget["limit"]:
        return Verdict("open", row["label"], "not known", "there is no slim network yet")
    met = within(budget["metric"], value, budget["limit"])
    gains = [one for one in slim_rows(row) if one.get("verdict", "gain") == "gain"]
    state: State = "good" if met and (gains or not row["bench"]) else "doubt" if met else "bad"
    told = [
        f"{numbers.share(value, budget['limit'])} of the budget",
        *_sweep_accuracy(slim, target),
        *_sweep_speed(row),
    ]
    word = {"good": "met", "doubt": "met, not faster", "bad": "exceeded"}[state]
    return Verdict(state, row["label"], word, "; ".join(told))


def _sweep_accuracy(slim: dict[str, Any], target: dict[str, Any]) -> list[str]:
    if slim["accuracy"] is None:
        return []
    change = (
        f" ({numbers.points(slim['accuracy'], target['accuracy'])})" if target["accuracy"] is not None else ""
    )
    return [f"{numbers.percent(slim['accuracy'])} top-1{change}"]


def _sweep_speed(row: dict[str, Any]) -> list[str]:
    doubts = {"no gain": " (no gain)", "unclear": " (within the noise)"}
    return [
        f"{numbers.ratio(one['speedup_vs_target'])} {one['provider']}, batch {one['batch']}"
        + doubts.get(one.get("verdict", ""), "")
        for one in slim_rows(row)
    ]
