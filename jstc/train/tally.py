"""Sums of loss and hits over batches, that can be put down in the middle and taken up again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from jstc.errors import StageError
from jstc.train import distributed

__all__ = ["Tally"]


class Tally:
    """Loss and hits of `batches` batches with `images` images; `after` is called behind each batch.

    The sums stay on the device and in float64, so that a step never waits and the order of adding is
    harmless. Whoever saves a training in the middle keeps `to_dict` with it.
    """

    def __init__(self, after: Callable[[], None] | None = None) -> None:
        self.batches = 0
        self.images = 0
        self.after = after
        self._sums: Tensor | None = None

    def add(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """One batch more: mean loss, scores [N, classes], labels [N]."""
        number = labels.shape[0]
        correct = (scores.argmax(dim=1) == labels).sum()
        new = torch.stack([loss.detach().double() * number, correct.double()])
        self._sums = new if self._sums is None else self._sums.to(new.device).add_(new)
        self.batches += 1
        self.images += number

    def passed(self) -> None:
        """The batch is over, and the network and its optimiser are as it left them."""
        if self.after is not None:
            self.after()

    def means(self) -> tuple[float, float, int]:
        """Mean loss, accuracy, and number of images, of all processes together; waits for the device.

        Raises `StageError` where there are no images at all.
        """
        loss, correct = self._values()
        loss, correct, images = distributed.sums([loss, correct, self.images])
        if not images:
            raise StageError("no images: the split is empty")
        return loss / images, correct / images, int(images)

    def is_finite(self) -> bool:
        """Whether no batch had an infinite loss; waits for the device."""
        return self._sums is None or all(map(math.isfinite, self._sums.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """A JSON document, exact, of all processes together; waits for the device."""
        loss, correct, images = distributed.sums([*self._values(), self.images])
        return {"batches": self.batches, "images": int(images), "loss": loss, "correct": correct}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take over what `to_dict` gave; of several processes the first one does."""
        self.batches = int(document["batches"])
        if self.batches and distributed.is_first():
            self.images = int(document["images"])
            self._sums = torch.tensor([document["loss"], document["correct"]], dtype=torch.float64)

    def _values(self) -> tuple[float, float]:
        loss, correct = (0.0, 0.0) if self._sums is None else self._sums.tolist()
        return loss, correct
