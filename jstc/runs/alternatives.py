"""Other ways to call a given network, which its training may have meant, and what each of them gets right."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jstc.core.progress import Progress
from jstc.data import DataInfo, Dataset, Split
from jstc.train.device import Numerics
from jstc.train.loop import evaluating
from jstc.train.one_step import logits
from jstc.train.recalibration import recalibrate

__all__ = ["Alternative", "Caller", "alternatives"]

_RECALIBRATION_IMAGES = 256
_UNTOUCHED = "they are as torch initialises them"


@dataclass(frozen=True)
class Alternative:
    """`network` called on images [N, C, H, W], normalised as the run has them, that `change` makes others of.

    `what` tells it in words (of statistics: how those in the file look), `settings` are the recipe keys that
    say it, where there are such.
    """

    kind: Literal["as given", "preprocessing", "statistics"]
    what: str
    settings: dict[str, list[float]]
    network: nn.Module
    change: Callable[[Tensor], Tensor]


# Name, mean and standard deviation: a figure for each channel, or one for all.
_Normalisation = tuple[str, tuple[float, ...], tuple[float, ...]]

_BYTE = 1 / 255
_OF_ANY: tuple[_Normalisation, ...] = (
    ("mean and standard deviation 0.5", (0.5,), (0.5,)),
    ("pixels from 0 to 1, not normalised", (0.0,), (1.0,)),
    ("pixels from 0 to 255, not normalised", (0.0,), (_BYTE,)),
)
_OF_COLOURS: tuple[_Normalisation, ...] = (
    ("ImageNet's mean and standard deviation", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("CIFAR-10's mean and standard deviation", (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    *_OF_ANY,
)
_OF_GREY: tuple[_Normalisation, ...] = (
    ("MNIST's mean and standard deviation", (0.1307,), (0.3081,)),
    *_OF_ANY,
)
_CAFFE: _Normalisation = ("pixels from 0 to 255 less their mean", (0.4076, 0.458, 0.485), (_BYTE,) * 3)
_BGR = "channels in the order blue, green, red"


def alternatives(
    network: nn.Module, dataset: Dataset, *, batch_size: int, numerics: Numerics
) -> list[Alternative]:
    """The network as it is first, then other preprocessings, then with statistics estimated anew."""
    info = dataset.info
    found = [Alternative("as given", "", {}, network, lambda images: images)]
    known = {1: _OF_GREY, 3: _OF_COLOURS}.get(info.channels, _OF_ANY)
    norms = [(what, _full(mean, info), _full(std, info)) for what, mean, std in known]
    others = [norm for norm in norms if not _is_own(norm, info)]
    for what, mean, std in others:
        settings = {"input.mean": [*mean], "input.std": [round(figure, 6) for figure in std]}
        change = _renormalised(info, mean, std)
        found.append(Alternative("preprocessing", what, settings, network, change))
    if info.channels == 3:
        for what, mean, std in (("", info.mean, info.std), *others, _CAFFE):
            told = f"{what}, {_BGR}" if what else _BGR
            change = _renormalised(info, mean, std, swapped=True)
            found.append(Alternative("preprocessing", told, {}, network, change))
    images = min(_RECALIBRATION_IMAGES, dataset.train.num_images)
    batches, other = dataset.train.ordered(batch_size, limit=images), copy.deepcopy(network)
    if recalibrate(other, batches, images=images, numerics=numerics):
        told = _UNTOUCHED if _is_untouched(network) else ""
        found.append(Alternative("statistics", told, {}, other, lambda images: images))
    return found


def _full(figures: tuple[float, ...], info: DataInfo) -> tuple[float, ...]:
    return figures * (info.channels if len(figures) == 1 else 1)


def _is_own(norm: _Normalisation, info: DataInfo) -> bool:
    pairs = zip((*norm[1], *norm[2]), (*info.mean, *info.std), strict=True)
    return all(math.isclose(one, own, rel_tol=0.01, abs_tol=1e-4) for one, own in pairs)


def _renormalised(
    info: DataInfo, mean: Sequence[float], std: Sequence[float], *, swapped: bool = False
) -> Callable[[Tensor], Tensor]:
    """What takes the data set's normalisation back, and applies another one; `swapped`: to BGR pixels."""

    def change(images: Tensor) -> Tensor:
        own_mean, own_std, new_mean, new_std = (
            torch.tensor(figures, device=images.device).view(1, -1, 1, 1)
            for figures in (info.mean, info.std, mean, std)
        )
        pixels = images * own_std + own_mean
        return ((pixels.flip(1) if swapped else pixels) - new_mean) / new_std

    return change


def _is_untouched(network: nn.Module) -> bool:
    """Whether all batch norms have the statistics of a network that has seen no image."""
    pairs = [(m.running_mean, m.running_var) for m in network.modules() if isinstance(m, _BatchNorm)]
    known = [(mean, var) for mean, var in pairs if mean is not None and var is not None]
    return bool(known) and all(bool((mean == 0).all()) and bool((var == 1).all()) for mean, var in known)


# What networks answer to some images of a split.

_EVERY = 4  # one image in so many is for the choice among alternatives


@dataclass(frozen=True)
class Caller:
    """Calls networks on `images` images that are spread over a split, one in four of them for a choice."""

    split: Split
    images: int
    batch_size: int
    numerics: Numerics
    progress: Progress

    @torch.inference_mode()
    def hits(self, tried: Sequence[Alternative], *, choosing: bool) -> Tensor:
        """Which images are classified rightly, bool [tried, images]: those for the choice, or all others."""
        found: list[list[Tensor]] = [[torch.zeros(0, dtype=torch.bool)] for _ in tried]
        for images, labels in self._batches(self.images, choosing=choosing):
            for one, own in zip(tried, found, strict=True):
                own.append(self._classes(one.network, one.change(images)) == labels.cpu())
        return torch.stack([torch.cat(own) for own in found])

    @torch.inference_mode()
    def answers(self, network: nn.Module, images: int) -> tuple[Tensor, Tensor]:
        """Classes that the network names for `images` images, and the right ones, both int64 [images]."""
        pairs = [(self._classes(network, batch), labels.cpu()) for batch, labels in self._batches(images)]
        named, right = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
        return named, right

    def _classes(self, network: nn.Module, images: Tensor) -> Tensor:
        with evaluating(network):
            return logits(self.numerics.call(network, images)).argmax(dim=1).cpu()

    def _batches(self, images: int, *, choosing: bool | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of all images; of those for the choice, or of the others."""
        self.progress.start("given", -(-images // self.batch_size), "trial batch")
        seen = 0
        for done, (batch, labels) in enumerate(self.split.ordered(self.batch_size, limit=images), start=1):
            first = torch.arange(seen, seen + len(batch), device=batch.device) % _EVERY == 0
            seen += len(batch)
            kept = torch.ones_like(first) if choosing is None else first if choosing else ~first
            if bool(kept.any()):
                yield batch[kept], labels[kept]
            self.progress.update(done)
        self.progress.finish()
