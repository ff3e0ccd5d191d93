"""Findings on accuracies: the slim network's, and those of the target network that it is compared with.

A comparison of which one side is at chance, or far below what it reached in training, gets no tick; nor does
one that a target network which is not at its best makes look good.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jstc.core import accuracy, numbers
from jstc.core.accuracy import Accuracy, difference
from jstc.core.numbers import count, percent, share
from jstc.report.finding import Finding, State, Wanted
from jstc.summary import Network, OnnxFile, Summary, SweepSummary

__all__ = [
    "as_long",
    "changes",
    "doubts",
    "emitted_findings",
    "framed",
    "line",
    "mismatch_sentence",
    "of_network",
    "of_target",
    "warnings",
]


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


# Findings on the emitted network: is it the trained one, how well does float32 hold it, is all of it used?
#
# What passed and what did not was judged by the stages, and its limits stand in their results.


_FOLD_LIMIT = 1e-5  # of results without a limit
_WORTH_A_WORD = 0.01
_MUCH = 0.25


def emitted_findings(summary: Summary) -> Iterator[Finding]:
    """Findings on folding, rounding, weights that no image reaches, and parity of the float32 file."""
    slim = summary.slim
    fold, limit = slim.max_abs_diff_fold, slim.max_abs_diff_fold_limit
    if fold is not None and fold > (_FOLD_LIMIT if limit is None else limit):
        told = f"Folding the gates changed the logits by up to {fold:.1g}."
        yield Finding("Folding", "warn", told, note=True)
    yield from _rounding(summary)
    yield from _unreached(summary)
    for file in summary.files:
        # Of the file whose arithmetic is torch's own.
        if file.precision == "fp32" and file.max_abs_diff is not None:
            yield _parity(file, file.max_abs_diff)


def _rounding(summary: Summary) -> Iterator[Finding]:
    found = summary.slim.rounding
    if found is None or not found.ill_conditioned:
        return
    told = (
        f"The network is ill-conditioned: rounding in float32 moves logits of up to {found.largest:.3g} "
        f"by up to {found.error:.1g} (beside float64), and files and machines may differ by as much."
    )
    if found.norm is not None and found.gain is not None and found.variance is not None:
        told += (
            f" Of its batch norms {found.norm} magnifies most: {found.gain:.3g} times, with a running "
            f"variance of {found.variance:.1g}."
        )
    yield Finding("Rounding", "warn", told, note=True)


def _unreached(summary: Summary) -> Iterator[Finding]:
    found = summary.slim.unreached
    if found is None or found.share < _WORTH_A_WORD:
        return
    size = "x".join(map(str, found.image_size))
    part = share(found.weights, summary.slim.params)
    told = (
        f"At {size} pixels {part} of the weights ({count(found.weights)}) see only padding and do "
        f"nothing: kernels wider than their maps, in {len(found.layers)} layers"
    )
    told += f" from {found.layers[0]} on" if found.layers else ""
    told += "; a larger input.image_size or a smaller network would use them."
    yield Finding("Unused weights", "warn" if found.share >= _MUCH else "neutral", told, note=True)


def _parity(file: OnnxFile, difference: float) -> Finding:
    limit = file.max_abs_diff_limit
    passed = limit is None or difference <= limit  # without one it was judged by its stage, and is there
    allowed = "" if limit is None else f" ({numbers.tiny(limit)} allowed)"
    told = f"Logits of the fp32 file are within {numbers.tiny(difference)} of torch's{allowed}."
    return Finding("Parity", "good" if passed else "bad", told, "same" if passed else "differs")


# Words on the network as it was given: its score, and what it seems to expect otherwise.


_WIDTH = 78
_TIED = "\u00a0"
_GOES_ON = (
    "Nothing was changed: the run goes on with the network as it came. If that is not what you want, stop it "
    "with Ctrl-C, and start again with other weights or settings and --fresh."
)


def line(figures: Mapping[str, Any]) -> str:
    """One line on the score: `given network: 81.04 % ±0.8 (8,104 of 10,000 test images), loss 0.731`."""
    value, images = float(figures["accuracy"]), int(figures["test_images"])
    loss = figures.get("loss")
    said = "not finite" if loss is None else f"{loss:.4g}"
    right = round(value * images)  # what is compared with an evaluation of one's own
    return f"given network: {Accuracy(value, images).text} ({right:,} of {images:,} test images), loss {said}"


def warnings(figures: Mapping[str, Any]) -> list[str]:
    """Sentences on what seems wrong with a given network; none where nothing does, or it has no score."""
    found, other = Accuracy.of(figures), figures.get("mismatch")
    sentences = []
    if found is not None and found.doubt == "chance":
        sentences.append(
            f"The given network is at chance: {found.text}, guessing reaches {percent(found.chance)}. "
            "Its weights do not go with these images, with how they are prepared, or with these classes."
        )
    if other is not None:
        sentences.append(mismatch_sentence(other))
    return sentences


def framed(sentences: Sequence[str]) -> list[str]:
    """Lines that nobody is to miss, before anything is trained; none for no sentences."""
    if not sentences:
        return []
    # What belongs together stays on a line: a number and its sign.
    wrapped = [
        part.replace(_TIED, " ")
        for sentence in (*sentences, _GOES_ON)
        for part in textwrap.wrap(sentence.replace(" %", f"{_TIED}%"), _WIDTH - 2, break_on_hyphens=False)
    ]
    edges = " WARNING ".center(_WIDTH, "!"), "!" * _WIDTH
    return ["", edges[0], *(f"! {part}" for part in wrapped), edges[1], ""]


_OTHERWISE_PREPARED = (
    " Images that are prepared otherwise than those that it was trained on have this effect, too: input.mean "
    "and input.std say how yours were."
)


def mismatch_sentence(found: Mapping[str, Any]) -> str:
    """What a given network seems to expect otherwise, by the document of a `jstc.runs.mismatch.Mismatch`."""
    kind, what = found["kind"], found["what"]
    if kind == "classifier":
        return (
            f"The last layer of the given network, '{what}', looks as torch initialises it: nothing seems to "
            "have trained it for these classes."
        )
    as_given, then = percent(found["as_given"]), percent(found["accuracy"])
    images = f"{found['images']:,} training images"
    if kind == "statistics":
        how = f" ({what})" if what else ""
        return (
            f"The batch-norm statistics of the given network{how} do not seem to belong to its weights: with "
            f"them {as_given} of {images} are right, with statistics estimated anew {then}."
            + ("" if what else _OTHERWISE_PREPARED)
        )
    if kind == "classes":
        return (
            f"The given network seems to have its classes in another order than the data set: {what}. With "
            f"that {then} of {images} are right, without {as_given}."
        )
    keys = ", ".join(f"{key.partition('.')[2]}: {value}" for key, value in found["settings"].items())
    hint = f" A recipe says so with input: {{{keys}}}." if keys else ""
    return (
        f"The given network seems to have been trained on images that were prepared otherwise: with {what}, "
        f"{then} of {images} are right, as they come {as_given}.{hint}"
    )
