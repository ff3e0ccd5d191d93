"""Mixing the images of a batch, and their labels: mixup and cutmix of torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from jstc.recipe import TrainSettings
from jstc.torchvision_import import import_torchvision
from jstc.train import seeds

__all__ = ["Mixing"]


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), with their alphas, for so many classes.

    With both, each step draws one of them. An alpha of 0 leaves one out.
    """

    mixup: float
    cutmix: float
    num_classes: int

    @classmethod
    def of(cls, settings: TrainSettings, num_classes: int | None) -> Mixing | None:
        """What the recipe asks for; None for nothing. Raises `ValueError` without a number of classes."""
        if not settings.mixup and not settings.cutmix:
            return None
        if num_classes is None:
            raise ValueError("mixup and cutmix need the number of classes")
        return cls(settings.mixup, settings.cutmix, num_classes)

    @cached_property
    def _transform(self) -> Any:
        v2 = import_torchvision("torchvision.transforms.v2")
        kinds = [(v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)]
        chosen = [kind(alpha=alpha, num_classes=self.num_classes) for kind, alpha in kinds if alpha]
        return chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)

    def __call__(self, images: Tensor, labels: Tensor, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Images [N, C, H, W] each mixed with another of the batch, and shares of classes [N, classes].

        A function of the arguments alone, but it sets torch's global random state: torchvision draws there.
        """
        seeds.set_global(seed, "mixing", step)
        mixed, shares = self._transform(images, labels)
        return mixed, shares
