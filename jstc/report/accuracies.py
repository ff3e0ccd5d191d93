"""Findings on accuracies: the slim network's, and those of the target network that it is compared with.

A comparison of which one side is at chance, or far below what it reached in training, gets no tick; nor does
one that a target network which is not at its best makes look good.
"""

from __future__ import annotations

from collections.abc import Iterator

from jstc.core import accuracy
from jstc.core.accuracy import Accuracy, difference
from jstc.report.finding import Finding, State, Wanted
from jstc.report.given import mismatch_sentence
from jstc.summary import Network, Summary, SweepSummary

__all__ = ["as_long", "changes", "doubts", "of_network", "of_target"]

_MISMATCH = "Something seems to be amiss with the given network as it came: a comparison with it says little."
_TEACHER = (
    "The slim network also learnt from the target network's answers (finetune.teacher); the target network "
    "trained alone did not."
)


def of_network(summary: Summary) -> Iterator[Finding]:
    """Accuracy of the slim network, beside those that it is compared with."""
    slim, known = summary.scored, summary.references
    if slim is None:
        yield Finding("Accuracy", "neutral", "The slim network has not been scored.", "not known")
        return
    why = doubts(summary, summary)
    best = max((one.value for one in known.values()), default=None)
    # A loss is a fact, not a fault: how much is too much is for the reader to say.
    state: State = "warn" if why else "neutral" if best is None or slim.value < best else "good"
    yield Finding("Accuracy", state, _beside(summary, slim, why), slim.text)
    for sentence in why:
        yield Finding("Accuracy", "warn", sentence, note=True)
    yield from _of_length(summary)


def _of_length(summary: Summary) -> Iterator[Finding]:
    had, planned = summary.finetune.epochs, summary.finetune.planned_epochs
    if had is None or planned is None:
        return
    alone = ", and the target network trained alone," * ("trained alone" in summary.references)
    told = f"Finetune had {had} epochs; the search{alone} counted on {planned}."
    yield Finding("Finetune", "neutral", told, note=True)


def _beside(summary: Summary, slim: Accuracy, why: list[str]) -> str:
    known = summary.references
    if why:
        told = [_compared(name, one, summary) for name, one in known.items()]
        return f"{why[0]} Top-1 on the test split{', beside ' if told else ''}{' and '.join(told)}."
    if not known:
        return "Top-1 on the test split; there is no accuracy of the target network to compare it with."
    each = [
        f"{difference(slim, one).text} against {_compared(name, one, summary)}" for name, one in known.items()
    ]
    sure = [difference(slim, one).is_sure for one in known.values() if one.images and slim.images]
    end = "" if not sure or any(sure) else "; no difference beyond the sampling error (±, 95 %)"
    return f"Top-1 on the test split, {', and '.join(each)}{end}."


def _compared(name: str, found: Accuracy, summary: Summary) -> str:
    if name != "trained alone":
        return f"the {found.text} of the given network as it came"
    start = "" if summary.target.accuracy_before is None else "from the same weights "
    return f"the {found.text} of the target network trained alone {start}{as_long(summary)}"


def as_long(summary: Summary | SweepSummary) -> str:
    """How long the target network was trained alone, in words."""
    planned = any(one.finetune.planned_epochs for one in summary.networks.values())
    return "for as many epochs as the run was begun with" if planned else "for as many epochs"


def doubts(summary: Summary | SweepSummary, network: Network) -> list[str]:
    """Sentences on why nothing follows from the comparisons of a slim network, none where something does."""
    given, alone = (summary.references.get(name) for name in ("given network", "trained alone"))
    found = accuracy.doubts(network.scored, given=given, alone=alone, epochs=summary.baseline.epochs)
    sound = given is not None and given.doubt is None  # else more than that is said of it
    amiss = sound and summary.given is not None and summary.given.mismatch is not None
    return [*found, *([_MISMATCH] if amiss else [])]


def changes(summary: Summary | SweepSummary, network: Network) -> dict[str, str]:
    """Differences of a slim network's accuracy from each that it is compared with: `-0.50 ±2.2 points`."""
    slim = network.scored
    if slim is None:
        return {}
    return {name: difference(slim, one).text for name, one in summary.references.items()}


def of_target(summary: Summary, wanted: Wanted) -> Iterator[Finding]:
    """What the slim network's accuracy can be compared with, and what is missing."""
    given = summary.references.get("given network")
    if not wanted.baseline:
        told = "The target network was not trained alone (baseline: false): its accuracy is not known."
        if given is not None:
            told = (
                "The given network was not trained on alone (baseline: false): how much of a change is the "
                "training's, and how much the cut's, is not known."
            )
        yield Finding("Target network", "neutral", told, note=True)
    elif summary.target.accuracy is None:
        told = "The baseline has not run: the target network's accuracy is not known."
        yield Finding("Target network", "warn", told, note=True)
    elif wanted.teacher:
        yield Finding("Target network", "neutral", _TEACHER, note=True)
    if summary.given is not None and summary.given.mismatch is not None:
        told = mismatch_sentence(dict(summary.given.mismatch))
        yield Finding("Given network", "warn", told, note=True)
    for sentence in summary.given.notes if summary.given is not None else ():
        yield Finding("Given network", "neutral", f"{sentence[:1].upper()}{sentence[1:]}.", note=True)
