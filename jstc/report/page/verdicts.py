"""What a reader wants to know first: is the budget met, are the files right, are they faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jstc.report import figures
from jstc.report.headline import speeds
from jstc.report.tables import file_rows, is_compared, network_files

__all__ = ["State", "Verdict", "verdicts"]

State = Literal["good", "doubt", "bad", "open"]

_UNITS = {"flops": "FLOPs", "params": "parameters"}


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
        *_latency(summary),
        *_accuracy(summary),
        *_parity(summary, recipe),
        *_precisions(summary, recipe),
        *_speed(summary),
    ]


def _budget(summary: dict[str, Any]) -> Iterator[Verdict]:
    metric, limit = summary["budget"]["metric"], summary["budget"]["limit"]
    if metric not in _UNITS or not limit:
        return
    used = summary["slim"].get(metric)
    if used is None:
        yield Verdict("open", "Budget", "not known", "there is no slim network yet")
        return
    text = f"{figures.count(used)} of {figures.count(limit)} {_UNITS[metric]}, {figures.share(used, limit)}"
    met = used <= limit
    yield Verdict("good" if met else "bad", "Budget", "met" if met else "exceeded", text)


def _latency(summary: dict[str, Any]) -> Iterator[Verdict]:
    found = summary.get("latency") or {}
    limit, measured, predicted = (found.get(key) for key in ("limit_ms", "measured_ms", "predicted_ms"))
    if limit is None:
        return
    known = measured if measured is not None else predicted
    how = "measured" if measured is not None else "predicted"
    if known is None:
        yield Verdict("open", "Latency budget", "not known", f"{figures.milliseconds(limit)} allowed")
        return
    text = f"{figures.milliseconds(known)} {how} of {figures.milliseconds(limit)} allowed"
    state: State = "bad" if known > limit else "good" if measured is not None else "doubt"
    yield Verdict(state, "Latency budget", "exceeded" if known > limit else "met", text)


def _accuracy(summary: dict[str, Any]) -> Iterator[Verdict]:
    slim, target = summary["slim"]["accuracy"], summary["target"]["accuracy"]
    if slim is None:
        yield Verdict("open", "Accuracy", "not known", "the slim network has not been scored")
    elif target is None:
        text = "the target network was not trained alone, so there is nothing to compare with"
        yield Verdict("open", "Accuracy", figures.percent(slim), text)
    else:
        text = f"{figures.percent(slim)}; the target network trained alone has {figures.percent(target)}"
        # A loss is a fact, not a fault: how much is too much is for the reader to say.
        state: State = "good" if slim >= target else "open"
        yield Verdict(state, "Accuracy", figures.points(slim, target), text)


def _parity(summary: dict[str, Any], recipe: Mapping[str, Any]) -> Iterator[Verdict]:
    """Of the file whose arithmetic is torch's own."""
    limit = (recipe.get("export") or {}).get("max_abs_diff")
    for file in network_files(summary):
        if file["precision"] == "fp32" and file["max_abs_diff"] is not None:
            passed = limit is None or file["max_abs_diff"] <= limit
            text = f"logits within {figures.tiny(file['max_abs_diff'])} of torch's"
            text += f" ({figures.tiny(limit)} allowed)" if limit else ""
            yield Verdict("good" if passed else "bad", "Parity", "same" if passed else "differs", text)


def _precisions(summary: dict[str, Any], recipe: Mapping[str, Any]) -> Iterator[Verdict]:
    limit, slim = (recipe.get("export") or {}).get("max_accuracy_drop"), summary["slim"]["accuracy"]
    for file in network_files(summary):
        if file["accuracy"] is None or slim is None:
            continue
        lost = 100 * (slim - file["accuracy"])
        allowed = f" ({limit:g} allowed)" if limit is not None else ""
        text = f"{figures.points(file['accuracy'], slim)} to torch on the test split{allowed}"
        bad = limit is not None and lost > limit
        yield Verdict(
            "bad" if bad else "good", f"{file['precision']} file", figures.percent(file["accuracy"]), text
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
