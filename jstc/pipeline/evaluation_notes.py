"""What an evaluation had to assume, and what its figures do not say by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jstc.data import DataInfo
    from jstc.export.accuracy import Score
    from jstc.export.classifier import Classifier

__all__ = ["afterthoughts", "assumptions"]

_ALIKE = 1e-6


def assumptions(classifier: Classifier, info: DataInfo) -> tuple[list[int] | None, list[str]]:
    """The data set's class for each of the file's (None: the same number), and what is to be said."""
    class_of, remark = _matched(classifier.labels, info.labels)
    notes = [remark, _of_pixels(classifier, info), _of_outputs(classifier)]
    return class_of, [note for note in notes if note]


def afterthoughts(score: Score, num_images: int, limit: int | None = None) -> list[str]:
    """What is to be said when the figures of `limit` of the test split's `num_images` are there."""
    notes = []
    asked = num_images if limit is None else min(limit, num_images)
    if asked < num_images:
        notes.append(f"{asked:,} of the {num_images:,} images of the test split, spread evenly over it")
    if score.images < asked:
        notes.append(f"{asked - score.images:,} of these images cannot be read: they are left out")
    if score.undefined:
        notes.append(f"the scores of {score.undefined:,} images are infinite or undefined: counted as wrong")
    return notes


def _matched(own: Sequence[str] | None, others: Sequence[str]) -> tuple[list[int] | None, str | None]:
    if own is None:
        return None, "the file does not name its classes: class i is taken for the data set's class i"
    names, wanted = ([_plain(label) for label in labels] for labels in (own, others))
    if names == wanted:
        return None, None
    if len(set(names)) == len(names) and set(names) == set(wanted):
        remark = "the file has its classes in another order than the data set: they are matched by name"
        return [wanted.index(name) for name in names], remark
    differ = [i for i, (mine, theirs) in enumerate(zip(names, wanted, strict=False)) if mine != theirs]
    example = f" (class {differ[0]}: '{own[differ[0]]}' and '{others[differ[0]]}')" if differ else ""
    return None, (
        f"the file names {len(own)} classes, and {len(differ)} have other names in the data set{example}: "
        "class i is taken for class i, which may be wrong"
    )


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").split())


def _of_pixels(classifier: Classifier, info: DataInfo) -> str | None:
    own = classifier.normalisation
    if classifier.takes_pixels:
        return "the file takes pixels: it got images that had the size of the evaluation already"
    if own is None:
        return "the file does not say how it normalises images: mean and std are the data set's"
    pairs = zip((*own.mean, *own.std), (*info.mean, *info.std), strict=True)
    if all(abs(mine - theirs) < _ALIKE for mine, theirs in pairs):
        return None
    return "images are normalised with mean and std of the file, which are not the data set's"


def _of_outputs(classifier: Classifier) -> str | None:
    if classifier.outputs == 1 or classifier.gives_classes:
        return None
    return f"of the file's {classifier.outputs} outputs, '{classifier.output_name}' has the scores"
