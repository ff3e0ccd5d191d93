"""What came out of a run, in a few plain sentences."""

from __future__ import annotations

from typing import Any

from jstc.report.figures import count, percent, points, ratio, share
from jstc.report.tables import ideal_speedup, slim_rows

__all__ = ["headline", "title"]

_METRICS = {"flops": "FLOPs", "params": "parameters"}


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
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    measured = [" and ".join(_measured(row) for row in rows if row["provider"] == name) for name in providers]
    if len(providers) == 1:
        text = f"Run beside the target in onnxruntime ({providers[0]}), its speed-up is {measured[0]}"
    else:
        each = [f"{told} on {name}" for name, told in zip(providers, measured, strict=True)]
        text = f"Run beside the target in onnxruntime, its speed-up is {', '.join(each)}"
    ideal = ideal_speedup(summary)
    return f"{text}; the FLOPs alone would suggest {ratio(ideal)}." if ideal else f"{text}."


def _measured(row: dict[str, Any]) -> str:
    doubt = {"no gain": " (no gain)", "unclear": " (within the noise)"}.get(row.get("verdict", ""), "")
    return f"**{ratio(row['speedup_vs_target'])}** at batch {row['batch']}{doubt}"


def _budget(summary: dict[str, Any]) -> str:
    metric, limit = summary["budget"]["metric"], summary["budget"]["limit"]
    used = summary["slim"].get(metric)
    if used is None or not limit:
        return ""
    verdict = "used" if used <= limit else "used, which is too much"
    return f"The budget was {count(limit)} {_METRICS[metric]}: {share(used, limit)} of it is {verdict}."
