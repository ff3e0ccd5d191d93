"""The accuracy of an ONNX file on the images of a split, through onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jstc.core.accuracy import wilson
from jstc.errors import InputError
from jstc.export.classifier import Classifier, Normalisation, open_classifier, require_fit
from jstc.ort.sessions import Provider

if TYPE_CHECKING:
    from torch import Tensor

    Batches = Iterable[tuple[Tensor, Tensor]]

__all__ = ["Score", "accuracy", "score"]

_BEST = 5
_LEAST_CLASSES = 10  # with fewer, five guesses are most of the classes


@dataclass(frozen=True)
class Score:
    """Right answers among `images` images, first guesses and first five (None where that says little).

    `undefined` images, whose scores were infinite or no numbers, count as wrong.
    """

    images: int
    right: int
    right_of_five: int | None
    undefined: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, a fraction."""
        return self.right / self.images

    @property
    def top5_accuracy(self) -> float | None:
        """Top-5 accuracy, a fraction."""
        return None if self.right_of_five is None else self.right_of_five / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the top-1 accuracy, for images drawn at random."""
        return wilson(self.right, self.images)

    def added_up(self, sums: Callable[[Sequence[float]], Sequence[float]]) -> Score:
        """The score on the images of all processes, by what adds numbers up over these."""
        images, right, of_five, undefined = sums(
            [self.images, self.right, self.right_of_five or 0, self.undefined]
        )
        best = None if self.right_of_five is None else int(of_five)
        return Score(int(images), int(right), best, int(undefined), self.seconds)


def accuracy(
    path: Path,
    batches: Batches,
    *,
    num_classes: int | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
) -> float:
    """Fraction of all images in `batches` (images [N, C, H, W], labels [N]) whose top-1 class is right.

    The images are normalised as the file's metadata say, or uint8 for a file that takes pixels.
    Raises `InputError` when the file is no classifier for such images, or has not `num_classes` classes.
    """
    opened = open_classifier(path, provider=provider, threads=threads, num_classes=num_classes)
    return score(opened, batches, num_classes=num_classes).accuracy


def score(
    classifier: Classifier,
    batches: Batches,
    *,
    normalised: Normalisation | None = None,
    class_of: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Compare the answers to the images of `batches` with their labels.

    Images are bytes, for a file that takes pixels, each batch of whatever size; or floats, and `normalised`
    is how these come (None: as the file wants them). `class_of[i]` is the class of the data set that the
    file's class i stands for (None: the same number). Raises `InputError` when nothing fits.
    """
    began = time.monotonic()
    hits: list[npt.NDArray[np.bool_]] = []
    defined: list[npt.NDArray[np.bool_]] = []
    for batch, labels in batches:
        if not hits:
            require_fit(classifier, shape=tuple(batch.shape[1:]), num_classes=num_classes)
        pixels_or_floats = batch.detach().cpu().numpy()
        answers = classifier.answer(_as_taken(classifier, pixels_or_floats, normalised))
        classes = answers.classes if class_of is None else np.asarray(class_of)[answers.classes]
        hits.append((classes == labels.cpu().numpy()[:, None]) & answers.defined[:, None])
        defined.append(answers.defined)
    if not hits:
        raise InputError(f"{classifier.path.name}: there are no images to compute the accuracy on")
    found, numbers = np.concatenate(hits), np.concatenate(defined)
    enough = found.shape[1] >= _BEST and (num_classes or classifier.num_classes or 0) >= _LEAST_CLASSES
    return Score(
        images=len(found),
        right=int(found[:, 0].sum()),
        right_of_five=int(found[:, :_BEST].any(axis=1).sum()) if enough else None,
        undefined=int((~numbers).sum()),
        seconds=time.monotonic() - began,
    )


def _as_taken(
    classifier: Classifier, images: npt.NDArray[Any], normalised: Normalisation | None
) -> npt.NDArray[Any]:
    if images.dtype == np.uint8 and classifier.takes_pixels:
        return images
    own = classifier.normalisation
    come = normalised or own
    if classifier.takes_pixels:
        if come is None:
            raise InputError(
                f"{classifier.path}: takes pixels, and how these images were normalised is unknown"
            )
        return come.pixels(images)
    return own.instead_of(come, images) if own is not None and come is not None else images
