"""Parity: the exported file answers the same images as the network does, in logits or probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jstc.errors import ParityError, StageError
from jstc.export.classifier import Classifier, open_classifier
from jstc.export.preprocess_graph import CLASSES, PROBABILITIES
from jstc.export.write import Runner, padded, reference
from jstc.ort import sessions
from jstc.soundness import plain_scores

__all__ = ["Parity", "parity", "preprocess_parity", "require_answers", "require_parity"]

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


def parity(network: nn.Module, path: Path, images: Tensor) -> Parity:
    """Compare the ONNX file with `network` in float32 on `images` [N, C, H, W], both on the CPU.

    Raises `StageError` when the file cannot run them.
    """
    if not len(images):
        raise StageError(f"{path.name}: parity needs at least one image")
    images = images.to("cpu", torch.float32)
    torch_network, _ = reference(network, (images.shape[1], images.shape[2], images.shape[3]))
    ours = plain_scores(torch_network, images)
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
    raise ParityError(
        f"{file} and the network differ by {result.max_abs_diff:.2g} in the logits of {result.images} images "
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


def preprocess_parity(
    network: nn.Module, path: Path, images: Tensor, originals: Iterable[tuple[Tensor, Tensor]]
) -> Parity:
    """Compare the file, which gets `originals`, with `network`, which gets `images` [N, C, H, W], prepared.

    The former are batches of bytes [n, C, height, width] of any size, with labels. `max_abs_diff` is that of
    the probabilities of the classes that the file answers with. Raises `StageError` when it cannot run them.
    """
    duplicate, _ = reference(network, (images.shape[1], images.shape[2], images.shape[3]))
    logits = plain_scores(duplicate, images.to("cpu", torch.float32))
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
