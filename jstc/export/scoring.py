"""The accuracy of an ONNX file on the images of a split, through onnxruntime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from jstc.core import numbers
from jstc.core.accuracy import wilson
from jstc.errors import InputError, ParityError, StageError
from jstc.export.classifier import Classifier, Normalisation, open_classifier, require_fit
from jstc.export.preprocess_graph import CLASSES, PROBABILITIES
from jstc.export.write import Runner, padded, reference
from jstc.ort import sessions
from jstc.ort.sessions import Provider
from jstc.soundness import plain_scores

if TYPE_CHECKING:
    from torch import Tensor

    Batches = Iterable[tuple[Tensor, Tensor]]

__all__ = [
    "Parity",
    "Score",
    "accuracy",
    "parity",
    "preprocess_parity",
    "require_answers",
    "require_parity",
    "score",
]


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


# Parity: the exported file answers the same images as the network does, in logits or probabilities.


_CHUNK = 32


@dataclass(frozen=True)
class Parity:
    """How far torch and onnxruntime are apart on `images` images.

    `max_abs_diff` and `max_abs_logit` are in units of the logits, `top1_agreement` is a fraction.
    """

    max_abs_diff: float
    top1_agreement: float
    images: int
    max_abs_logit: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)


def parity(network: nn.Module | Tensor, path: Path, images: Tensor) -> Parity:
    """Compare the ONNX file with `network` in float32 on `images` [N, C, H, W], both on the CPU.

    In place of the network, its scores [N, classes] will do. Raises `StageError` when the file cannot run
    them.
    """
    if not len(images):
        raise StageError(f"{path.name}: parity needs at least one image")
    images = images.to("cpu", torch.float32)
    ours = _scores(network, images)
    theirs = Runner(path).all_logits(images)
    if ours.shape != theirs.shape:
        shapes = f"{tuple(theirs.shape)} and {tuple(ours.shape)}"
        raise ParityError(f"{path.name}: logits of ONNX and torch differ in shape, {shapes}")
    return Parity(
        max_abs_diff=(ours - theirs).abs().max().item(),
        top1_agreement=(ours.argmax(1) == theirs.argmax(1)).double().mean().item(),
        images=len(images),
        max_abs_logit=ours.abs().max().item(),
    )


def require_parity(result: Parity, *, max_abs_diff: float, file: str = "the ONNX file") -> None:
    """Raise `ParityError` unless the difference is at most `max_abs_diff` (absolute, in logits)."""
    if result.max_abs_diff <= max_abs_diff:  # false for NaN
        return
    found = numbers.unlike(result.max_abs_diff, max_abs_diff, "{:.{}g}".format, 2)
    raise ParityError(
        f"{file} and the network differ by {found} in the logits of {result.images} images "
        f"(limit {max_abs_diff:.2g}, top-1 agrees on {result.top1_agreement:.2%}); {_advice(result)}"
    )


def require_answers(file: str, *, right: int, expected: int, images: int, undecided: int) -> None:
    """Raise `ParityError` unless a float32 file has as many right answers as torch, `expected`, of `images`.

    They may differ by as many as there are images on which rounding decides, `undecided`.
    """
    if abs(right - expected) <= undecided:
        return
    explained = f"on {undecided:,} of them" if undecided else "on none of them"
    raise ParityError(
        f"{file} has {right:,} of {images:,} test images right, the network in torch {expected:,}; rounding "
        f"decides {explained}",
        "export again on the machine that trained, with nothing else changed; if it stays so, it is a fault "
        "of jstc or onnxruntime",
    )


def _advice(result: Parity) -> str:
    if not math.isfinite(result.max_abs_logit):
        return "the network's own logits are infinite or undefined: its training went wrong"
    return (
        "that is more than rounding: try another export.opset, and look for randomness or state "
        "in the network's forward in evaluation mode"
    )


# Parity of a file with its preprocessing inside: the probabilities that it gives for the same images.


def _scores(network: nn.Module | Tensor, images: Tensor) -> Tensor:
    if isinstance(network, Tensor):
        return network
    duplicate, _ = reference(network, (images.shape[1], images.shape[2], images.shape[3]))
    return plain_scores(duplicate, images)


def preprocess_parity(
    network: nn.Module | Tensor, path: Path, images: Tensor, originals: Iterable[tuple[Tensor, Tensor]]
) -> Parity:
    """Compare the file, which gets `originals`, with `network`, which gets `images` [N, C, H, W], prepared.

    The former are batches of bytes [n, C, height, width] of any size, with labels. `max_abs_diff` is that of
    the probabilities of the classes that the file answers with. Raises `StageError` when it cannot run them.
    """
    logits = _scores(network, images.to("cpu", torch.float32))
    opened = open_classifier(path)
    parts = zip(*_answers(opened, originals), strict=True)
    classes, shares = (torch.from_numpy(np.concatenate(part)) for part in parts)
    return Parity(
        max_abs_diff=(logits.softmax(1).gather(1, classes) - shares).abs().max().item(),
        top1_agreement=(logits.argmax(1) == classes[:, 0]).double().mean().item(),
        images=len(images),
        max_abs_logit=logits.abs().max().item(),
    )


def _answers(opened: Classifier, originals: Iterable[tuple[Tensor, Tensor]]) -> Iterator[list[np.ndarray]]:
    size = opened.batch or _CHUNK
    for chunk in (chunk for batch, _ in originals for chunk in torch.split(batch.cpu(), size)):
        filled = padded(chunk, size) if opened.batch else chunk
        feed = {opened.input_name: np.ascontiguousarray(filled.numpy().transpose(0, 2, 3, 1))}
        try:
            found = opened.session.run([CLASSES, PROBABILITIES], feed)
        except sessions.ORT_ERRORS as error:
            raise StageError(f"onnxruntime cannot run {opened.path.name} on these images: {error}") from error
        yield [part[: len(chunk)] for part in found]
