"""What came out of a run, in a few plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jstc.report.budgets import amount, used, within
from jstc.report.figures import count, percent, points, ratio, share
from jstc.report.tables import ideal_speedup, slim_rows

__all__ = ["headline", "speeds", "title"]

_FEW = 2


def title(summary: dict[str, Any]) -> str:
    """`resnet20 on digits at 50.0 % of its FLOPs`, or as much of it as is known."""
    slim, target = summary["slim"]["flops"], summary["target"]["flops"]
    name = f"{summary['model']} on {summary['dataset']}"
    return name if None in (slim, target) else f"{name} at {share(slim, target)} of its FLOPs"


def headline(summary: dict[str, Any]) -> str:
    """One paragraph: accuracy, size and speed of the slim network beside the target network."""
    sentences = [_size(summary), _accuracy(summary), _speed(summary), _budget(summary)]
    return " ".join(sentence for sentence in sentences if sentence)


def _size(summary: dict[str, Any]) -> str:
    slim, target = summary["slim"], summary["target"]
    if None in (slim["flops"], slim["params"], target["flops"], target["params"]):
        return "There is no slim network yet."
    flops = f"**{count(slim['flops'])} of {count(target['flops'])} FLOPs** ({_share('flops', summary)})"
    params = f"{count(slim['params'])} of {count(target['params'])} parameters ({_share('params', summary)})"
    return f"The slim network keeps {flops} and {params}."


def _share(metric: str, summary: dict[str, Any]) -> str:
    return share(summary["slim"][metric], summary["target"][metric])


def _accuracy(summary: dict[str, Any]) -> str:
    slim, target = summary["slim"]["accuracy"], summary["target"]["accuracy"]
    if slim is None:
        return ""
    text = f"It reaches **{percent(slim)}** top-1 on the test split"
    if target is None:
        return f"{text}."
    return (
        f"{text}, {points(slim, target)} against the {percent(target)} of the target network "
        "trained alone for as many epochs."
    )


def _speed(summary: dict[str, Any]) -> str:
    rows = slim_rows(summary)
    if not rows:
        return ""
    told = ", ".join(speeds(rows))
    where = f" ({rows[0]['provider']})" if len({row["provider"] for row in rows}) == 1 else ""
    text = f"Run beside the target in onnxruntime{where}, its speed-up is {told}"
    ideal = ideal_speedup(summary)
    return f"{text}; the FLOPs alone would suggest {ratio(ideal)}." if ideal else f"{text}."


def speeds(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A phrase for each provider; a range where it was timed at more than two batch sizes."""
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    of = {name: [row for row in rows if row["provider"] == name] for name in providers}
    told = [
        _range(own) if len(own) > _FEW else " and ".join(_measured(row) for row in own) for own in of.values()
    ]
    if len(providers) == 1:
        return told
    return [f"{phrase} on {name}" for phrase, name in zip(told, providers, strict=True)]


def _range(rows: Sequence[dict[str, Any]]) -> str:
    speedups, batches = [row["speedup_vs_target"] for row in rows], [row["batch"] for row in rows]
    doubtful = sum(bool(_doubt(row)) for row in rows)
    doubt = f" (no gain, or none beyond the noise, at {doubtful} of {len(rows)})" if doubtful else ""
    span = f"**{min(speedups):.2f}x to {max(speedups):.2f}x**"
    return f"{span} at batch {min(batches)} to {max(batches)}{doubt}"


def _measured(row: dict[str, Any]) -> str:
    return f"**{ratio(row['speedup_vs_target'])}** at batch {row['batch']}{_doubt(row)}"


def _doubt(row: dict[str, Any]) -> str:
    return {"no gain": " (no gain)", "unclear": " (within the noise)"}.get(row.get("verdict", ""), "")


def _budget(summary: dict[str, Any]) -> str:
    metric, limit, value = summary["budget"]["metric"], summary["budget"]["limit"], used(summary)
    if value is None or not limit:
        return ""
    verdict = "used" if within(metric, value, limit) else "used, which is too much"
    if metric == "latency":
        how = "measured" if (summary["latency"] or {}).get("measured_ms") is not None else "predicted"
        verdict = verdict.replace("used", f"used as {how}", 1)
    return f"The budget was {amount(metric, limit)}: {share(value, limit)} of it is {verdict}."
