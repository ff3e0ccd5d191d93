"""What a reader of the figures has to know: what is missing and why, and what did not work out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jstc.report import figures
from jstc.report.budgets import used, within
from jstc.report.tables import network_files

__all__ = ["notes", "unreadable"]

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
        before = figures.percent(summary["target"]["accuracy_before"])
        found.append(f"The target network started from given weights, with which it reaches {before}.")
    return found


def _budget(summary: dict[str, Any]) -> list[str]:
    metric, limit = summary["budget"]["metric"], summary["budget"]["limit"]
    value = used(summary)
    if value is None or limit is None or within(metric, value, limit):
        return []
    if metric == "latency":
        taken, allowed = figures.milliseconds(value), figures.milliseconds(limit)
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
        moved = figures.points(file["accuracy"], slim)
        found.append(f"{file['file']} scores {figures.percent(file['accuracy'])}, {moved} from torch.")
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
    return figures.ratio(row["speedup_vs_target"]) + interval


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
