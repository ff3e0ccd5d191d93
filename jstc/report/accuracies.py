"""Findings on accuracies: the slim network's, and those of the target network that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from jstc.core.numbers import percent, points
from jstc.report.finding import Finding, Wanted
from jstc.report.given import mismatch_sentence
from jstc.summary import Summary

__all__ = ["of_network", "of_target"]


def of_network(summary: Summary) -> Iterator[Finding]:
    """Accuracy of the slim network, beside those that it is compared with."""
    slim, known = summary.slim.accuracy, summary.target.references
    if slim is None:
        yield Finding("Accuracy", "neutral", "The slim network has not been scored.", "not known")
    elif not known:
        told = "Top-1 on the test split; there is no accuracy of the target network to compare it with."
        yield Finding("Accuracy", "neutral", told, percent(slim))
    else:
        # A loss is a fact, not a fault: how much is too much is for the reader to say.
        each = [f"{points(slim, value)} against {_compared(name, summary)}" for name, value in known.items()]
        told = f"Top-1 on the test split, {', and '.join(each)}."
        yield Finding("Accuracy", "good" if slim >= max(known.values()) else "neutral", told, percent(slim))


def _compared(name: str, summary: Summary) -> str:
    given, alone = summary.target.accuracy_before, summary.target.accuracy
    if name != "trained alone":
        return f"the {percent(given)} of the given network as it came"
    start = "" if given is None else "from the same weights "
    return f"the {percent(alone)} of the target network trained alone {start}for as many epochs"


def of_target(summary: Summary, wanted: Wanted) -> Iterator[Finding]:
    """What the slim network's accuracy can be compared with, and what is missing."""
    if not wanted.baseline:
        told = "The target network was not trained alone (baseline: false): its accuracy is not known."
        if summary.target.accuracy_before is not None:
            told = (
                "The given network was not trained on alone (baseline: false): how much of a change is the "
            )
            told += "training's, and how much the cut's, is not known."
        yield Finding("Target network", "neutral", told, note=True)
    elif summary.target.accuracy is None:
        told = "The baseline has not run: the target network's accuracy is not known."
        yield Finding("Target network", "warn", told, note=True)
    if summary.target.accuracy_before is not None:
        before = percent(summary.target.accuracy_before)
        told = f"The target network started from given weights, with which it reaches {before}."
        yield Finding("Target network", "neutral", told, note=True)
    other = (summary.given.model_extra or {}).get("mismatch") if summary.given is not None else None
    if other:
        yield Finding("Given network", "warn", mismatch_sentence(other), note=True)
