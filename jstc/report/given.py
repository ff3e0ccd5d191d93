"""Words on the network as it was given: its score, and what it seems to expect otherwise."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jstc.core.accuracy import Accuracy
from jstc.core.numbers import percent

__all__ = ["framed", "line", "mismatch_sentence", "warnings"]

_WIDTH = 78
_TIED = "\u00a0"
_GOES_ON = (
    "Nothing was changed: the run goes on with the network as it came. If that is not what you want, stop it "
    "with Ctrl-C, and start again with other weights or settings and --fresh."
)


def line(figures: Mapping[str, Any]) -> str:
    """One line on the score: `given network: 81.04 % ±0.8 of 10,000 images (test), loss 0.731`."""
    found = Accuracy(figures["accuracy"], figures["test_images"])
    loss = figures.get("loss")
    said = "not finite" if loss is None else f"{loss:.4g}"
    return f"given network: {found.text} of {found.images:,} images (test), loss {said}"


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
