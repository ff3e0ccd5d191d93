"""Parity of a file with its preprocessing inside: the probabilities that it gives for the same images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jstc import ort
from jstc.errors import StageError
from jstc.export.classifier import Classifier, open_classifier
from jstc.export.network import reference, run_reference
from jstc.export.parity import Parity
from jstc.export.preprocess_graph import CLASSES, PROBABILITIES
from jstc.export.running import padded

__all__ = ["parity_of_answers"]

_CHUNK = 32


def parity_of_answers(network: nn.Module, path: Path, images: Tensor) -> Parity:
    """Compare the file, which gets the pixels, with `network`, which gets `images` [N, C, H, W], normalised.

    `max_abs_diff` is that of the probabilities of the classes that the file answers with. Raises `StageError`
    when it cannot run the images, or does not say how they are normalised.
    """
    duplicate, _ = reference(network, (images.shape[1], images.shape[2], images.shape[3]))
    logits = run_reference(duplicate, images.to("cpu", torch.float32))
    opened = open_classifier(path)
    parts = zip(*_answers(opened, images.cpu()), strict=True)
    classes, shares = (torch.from_numpy(np.concatenate(part)) for part in parts)
    return Parity(
        max_abs_diff=(logits.softmax(1).gather(1, classes) - shares).abs().max().item(),
        top1_agreement=(logits.argmax(1) == classes[:, 0]).double().mean().item(),
        images=len(images),
        max_abs_logit=logits.abs().max().item(),
    )


def _answers(opened: Classifier, images: Tensor) -> Iterator[list[np.ndarray]]:
    if opened.normalisation is None:
        raise StageError(f"{opened.path.name} does not say how its images are normalised")
    size = opened.batch or _CHUNK
    for chunk in torch.split(images, size):
        filled = padded(chunk, size) if opened.batch else chunk
        pixels = opened.normalisation.pixels(filled.numpy()).transpose(0, 2, 3, 1)
        feed = {opened.input_name: np.ascontiguousarray(pixels)}
        try:
            found = opened.session.run([CLASSES, PROBABILITIES], feed)
        except ort.ORT_ERRORS as error:
            raise StageError(f"onnxruntime cannot run {opened.path.name} on these images: {error}") from error
        yield [part[: len(chunk)] for part in found]
