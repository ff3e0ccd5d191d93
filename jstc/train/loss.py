"""The loss of a training step: cross-entropy, and what a teacher adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.errors import StageError
from jstc.train.device import as_input, autocast

__all__ = ["Criterion", "Teacher", "distillation", "logits"]


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode to learn from; `weight` is its share of the loss."""

    network: nn.Module
    weight: float
    temperature: float


@dataclass(frozen=True)
class Criterion:
    """How a network is run and what its scores are compared with."""

    dtype: torch.dtype | None = None
    channels_last: bool = False
    label_smoothing: float = 0.0
    teacher: Teacher | None = None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over the images [N, C, H, W], and their scores [N, classes] without gradients.

        `labels` are classes [N] or shares of classes [N, classes].
        """
        images = as_input(images, channels_last=self.channels_last)
        with autocast(images.device, self.dtype):
            scores = logits(network(images)).float()
            soft = _teach(self.teacher, images)
        loss = F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)
        if self.teacher is not None and soft is not None:
            weight = self.teacher.weight
            loss = (1 - weight) * loss + weight * distillation(scores, soft, self.teacher.temperature)
        return loss, scores.detach()


@torch.no_grad()
def _teach(teacher: Teacher | None, images: Tensor) -> Tensor | None:
    return None if teacher is None else logits(teacher.network(images)).float()


def distillation(scores: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened classes, times temperature squared; both [N, classes].

    The factor keeps the gradient's size when the temperature changes (Hinton et al. 2015, section 2).
    """
    student, teacher = ((s / temperature).log_softmax(dim=1) for s in (scores, soft))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def logits(output: object) -> Tensor:
    """The class scores [N, classes] in what a network returned.

    Networks with auxiliary heads return a tuple or an object; the main scores are first, or `.logits`.
    """
    if isinstance(output, Tensor):
        return output
    main = getattr(output, "logits", None)
    if main is None and isinstance(output, tuple | list) and output:
        main = output[0]
    if not isinstance(main, Tensor):
        raise StageError(f"the network returned {type(output).__name__}; expected class scores [N, classes]")
    return main
