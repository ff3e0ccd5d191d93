"""What came out of a run, in a few plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jstc.core import numbers
from jstc.core.numbers import count, percent, points, ratio, share
from jstc.report.tables import ideal_speedup, network_files, slim_rows

__all__ = ["BUDGETS", "amount", "headline", "notes", "speeds", "title", "unreadable", "used", "within"]

# The bound of a run and what of it is used, whatever it bounds: FLOPs, parameters or a latency.

BUDGETS = {"flops": "FLOPs", "params": "parameters", "latency": "latency"}
"""What a budget can bound, and what that is called."""

_NOISE = 1.05  # a measured latency up to here over the limit meets it: it is predicted, and measured again


def amount(metric: str, value: float | None) -> str:
    """`20.5 M FLOPs`, `2.00 ms`."""
    if metric == "latency":
        return numbers.milliseconds(value)
    return f"{numbers.count(value)} {BUDGETS.get(metric, metric)}"


def used(summary: Mapping[str, Any]) -> float | None:
    """What the slim network has of what is bounded; of a latency as measured, or else as predicted."""
    metric = summary["budget"]["metric"]
    if metric != "latency":
        found: float | None = summary["slim"].get(metric)
        return found
    latency = summary.get("latency") or {}
    measured: float | None = latency.get("measured_ms")
    return measured if measured is not None else latency.get("predicted_ms")


def within(metric: str, value: float, limit: float) -> bool:
    """Whether the budget is met; a latency within the 5 % that predictions are meant to."""
    return value <= limit * (_NOISE if metric == "latency" else 1)


_FEW = 2


def title(summary: dict[str, Any]) -> str:
    """`resnet20 on digits at 50.0 % of its FLOPs`, or as much of it as is known."""
    slim, target = summary["slim"]["flops"], summary["target"]["flops"]
    name = f"{summary['model']} on {summary['dataset']}"
    return name if None in (slim, target) else f"{name} at {share(slim, target)} of its FLOPs"


def headline(summary: dict[str, Any]) -> str:
    """One paragraph: accuracy, size and speed of the slim network beside the target network."""
    sentences = [_size(summary), _accuracy(summary), _headline_speed(summary), _headline_budget(summary)]
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


def _headline_speed(summary: dict[str, Any]) -> str:
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
        _range(own) if len(own) > _FEW else " and ".join(_headline_measured(row) for row in own)
        for own in of.values()
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


def _headline_measured(row: dict[str, Any]) -> str:
    return f"**{ratio(row['speedup_vs_target'])}** at batch {row['batch']}{_doubt(row)}"


def _doubt(row: dict[str, Any]) -> str:
    return {"no gain": " (no gain)", "unclear": " (within the noise)"}.get(row.get("verdict", ""), "")


def _headline_budget(summary: dict[str, Any]) -> str:
    metric, limit, value = summary["budget"]["metric"], summary["budget"]["limit"], used(summary)
    if value is None or not limit:
        return ""
    verdict = "used" if within(metric, value, limit) else "used, which is too much"
    if metric == "latency":
        how = "measured" if (summary["latency"] or {}).get("measured_ms") is not None else "predicted"
        verdict = verdict.replace("used", f"used as {how}", 1)
    return f"The budget was {amount(metric, limit)}: {share(value, limit)} of it is {verdict}."


# What a reader of the figures has to know: what is missing and why, and what did not work out.

_MISSING = {
    "search": "there is no plan",
    "finetune": "the sub-network has not been trained to the end",
    "slim": "the slim network's figures are missing",
    "export": "there is no ONNX file",
    "bench": "no latency was measured",
}
_STATES = {"failed": "failed", "running": "has not finished"}
_DOUBTS = {"no gain": "No gain in speed", "unclear": "The gain in speed is within the noise"}
_FOLD_LIMIT = 1e-5
_ACCURACY_LIMIT = 0.001


def notes(summary: dict[str, Any], *, recipe: Mapping[str, Any], states: Mapping[str, str]) -> list[str]:
    """Sentences for the report; `states` are the manifest's states by stage."""
    return [
        *_missing_stages(summary, states),
        *_target(summary, recipe),
        *_budget(summary),
        *_search(summary),
        *unreadable(summary["unreadable_images"], summary["finetune"]["test_images"]),
        *_files(summary),
        *_speed(summary, recipe),
    ]


def _missing_stages(summary: dict[str, Any], states: Mapping[str, str]) -> list[str]:
    there = {
        "search": summary["plan_hash"],
        "finetune": summary["finetune"]["epochs"],
        "slim": summary["slim"]["flops"],
        "export": summary["onnx"],
        "bench": summary["bench"],
    }
    return [
        f"{name} {_STATES.get(states.get(name, ''), 'has not run')}: {_MISSING[name]}."
        for name, found in there.items()
        if not found
    ]


def _target(summary: dict[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    found = []
    if not recipe.get("baseline"):
        found.append("The target network was not trained alone (baseline: false): its accuracy is not known.")
    elif summary["target"]["accuracy"] is None:
        found.append("The baseline has not run: the target network's accuracy is not known.")
    if summary["unknown_operations"]:
        names = ", ".join(f"{name} ({count})" for name, count in summary["unknown_operations"].items())
        found.append(f"Operations without a rule for channels, which keep whole what they touch: {names}.")
    if summary["target"]["accuracy_before"] is not None:
        before = numbers.percent(summary["target"]["accuracy_before"])
        found.append(f"The target network started from given weights, with which it reaches {before}.")
    return found


def _budget(summary: dict[str, Any]) -> list[str]:
    metric, limit = summary["budget"]["metric"], summary["budget"]["limit"]
    value = used(summary)
    if value is None or limit is None or within(metric, value, limit):
        return []
    if metric == "latency":
        taken, allowed = numbers.milliseconds(value), numbers.milliseconds(limit)
        return [f"The slim network is over its budget: it takes {taken}, where {allowed} are allowed."]
    return [f"The slim network is over its budget: {value:,.0f} {metric}, where {limit:,.0f} are allowed."]


def _search(summary: dict[str, Any]) -> list[str]:
    found = []
    rounds, sharing = summary["search"]["rounds"], summary["search"]["shared_by"]
    if sharing:
        found.append(
            f"The search, its {rounds} rounds and its time, was one for all of {', '.join(sharing)}."
        )
    if summary["search"]["settled"] is False:
        found.append(
            f"The plan was still changing when the {rounds} rounds of the search were spent (search.rounds)."
        )
    return found


def unreadable(images: int, tested: int | None = None) -> list[str]:
    """What is to be said of images that could not be read, when `tested` ones of the test split could."""
    if not images:
        return []
    left = "" if tested is None else f"; accuracies are those of the {tested:,} test images that could"
    return [f"Images that could not be read, listed in corrupt.jsonl: {images:,}{left}."]


def _files(summary: dict[str, Any]) -> list[str]:
    found = []
    fold = summary["slim"]["max_abs_diff_fold"]
    if fold is not None and fold > _FOLD_LIMIT:
        found.append(f"Folding the gates changed the logits by up to {fold:.1g}.")
    slim = summary["slim"]["accuracy"]
    for file in network_files(summary):
        if None in (slim, file["accuracy"]) or abs(file["accuracy"] - slim) <= _ACCURACY_LIMIT:
            continue
        moved = numbers.points(file["accuracy"], slim)
        found.append(f"{file['file']} scores {numbers.percent(file['accuracy'])}, {moved} from torch.")
    return found


def _speed(summary: dict[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    found = _doubtful(summary["bench"])
    found += [*_unsteady(summary["bench"]), *_elsewhere(summary["bench"]), *_left_out(summary["skipped"])]
    problem = (summary["environment"].get("providers") or {}).get("cuda", "usable")
    provider = (recipe.get("bench") or {}).get("provider", "auto")
    automatic = "auto" in (provider if isinstance(provider, list) else [provider])
    if summary["bench"] and automatic and problem != "usable":
        found.append(f"CUDA was not measured: {problem}.")
    return found


def _doubtful(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Speed-ups that are none or may be none: a line for each file and provider."""
    alike: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("verdict") in _DOUBTS:
            alike.setdefault((_DOUBTS[row["verdict"]], row["file"], row["provider"]), []).append(row)
    found = []
    for (said, file, provider), same in alike.items():
        told = [_measured(row) for row in same]
        if len(same) == 1:
            found.append(f"{said}: {file} at batch {same[0]['batch']} on {provider} measures {told[0]}.")
        else:
            each = [f"{text} at batch {row['batch']}" for text, row in zip(told, same, strict=True)]
            found.append(f"{said}: {file} on {provider} measures {', '.join(each)}.")
    return found


def _measured(row: Mapping[str, Any]) -> str:
    low, high = row.get("ratio_low"), row.get("ratio_high")
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return numbers.ratio(row["speedup_vs_target"]) + interval


def _unsteady(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    places = [f"{row['provider']}, batch {row['batch']}" for row in rows if row.get("steady") is False]
    if not places:
        return []
    where = "; ".join(dict.fromkeys(places))
    return [f"Latencies had not settled before the measuring ({where}): the machine may have been busy."]


def _elsewhere(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Files of which another provider than the one named runs a part, once each."""
    found = {
        (row["file"], row["provider"]): row["nodes_elsewhere"] for row in rows if row.get("nodes_elsewhere")
    }
    return [
        f"On {provider}, some of {file} is run by others: "
        + ", ".join(f"{count} nodes by {other}" for other, count in others.items())
        + "."
        for (file, provider), others in found.items()
    ]


def _left_out(skipped: Sequence[Mapping[str, Any]]) -> list[str]:
    """Files, providers and batch sizes that were asked for and not measured, those of one reason together."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for entry in skipped:
        key = tuple(entry.get(name) for name in ("provider", "batch", "reason"))
        found.setdefault(key, []).append(entry.get("file") or "all files")
    return [
        f"Not measured: {', '.join(names)}"
        + (f" at batch {batch}" if batch is not None else "")
        + (f" on {provider}" if provider else "")
        + f": {reason}."
        for (provider, batch, reason), names in found.items()
    ]
