"""What a reader wants to know first: is the budget met, are the files right, are they faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jstc.report import figures
from jstc.report.budgets import amount, used, within
from jstc.report.headline import speeds
from jstc.report.tables import file_rows, is_compared, network_files

__all__ = ["State", "Verdict", "verdicts"]

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
    text = f"{figures.share(value, limit)} of {amount(metric, limit)} used"
    state: State = "good" if met else "bad"
    if metric == "latency":
        text = _latency(summary, limit)
        state = "doubt" if met and summary["latency"].get("measured_ms") is None else state
    yield Verdict(state, label, "met" if met else "exceeded", text)


def _latency(summary: dict[str, Any], limit: float) -> str:
    """Predicted and measured, beside what is allowed."""
    known = [(how, summary["latency"].get(f"{how}_ms")) for how in ("predicted", "measured")]
    told = [f"{figures.milliseconds(value)} {how}" for how, value in known if value is not None]
    return f"{', '.join(told)}; {figures.milliseconds(limit)} allowed"


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
        bad = limit is not None and lost > limit + _ROUNDING
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
