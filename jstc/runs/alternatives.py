"""Other ways to call a given network, which its training may have meant, and what each of them gets right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jstc.channels.trace.ids import evaluating
from jstc.channels.trace.memory import duplicate
from jstc.core.progress import Progress
from jstc.data import DataInfo, Dataset, Split
from jstc.models.outputs import logits
from jstc.train.device import Numerics
from jstc.train.recalibration import recalibrate

__all__ = ["Alternative", "Caller", "ClassOrder", "alternatives", "class_orders", "new_classifier"]


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
    batches, other = dataset.train.ordered(batch_size, limit=images), duplicate(network)
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
        self.progress.start("given", -(-images // self.batch_size), "other preparations batch")
        seen = 0
        for done, (batch, labels) in enumerate(self.split.ordered(self.batch_size, limit=images), start=1):
            first = torch.arange(seen, seen + len(batch), device=batch.device) % _EVERY == 0
            seen += len(batch)
            kept = torch.ones_like(first) if choosing is None else first if choosing else ~first
            if bool(kept.any()):
                yield batch[kept], labels[kept]
            self.progress.update(done)
        self.progress.finish()


# Whether a network answers with classes in another order, or with a classifier that has learnt nothing.


_SEEN = 2  # images that a name was given to, from which on it counts
_MOST_NAMES = 0.8  # of the classes are named, where only their order is another


class ClassOrder(NamedTuple):
    """Another order of classes: the right class for each that the network names, int64 [classes].

    `judged` are the images, as a slice, by which it was not found.
    """

    what: str
    class_of: Tensor
    judged: slice


def class_orders(labels: Sequence[str], named: Tensor, right: Tensor) -> Iterator[ClassOrder]:
    """Orders that are worth a look, by the class names, and by the answers to half of the images.

    `named` and `right` are the classes that the network names and the right ones, both int64 [images].
    """
    for what, key in _KEYS:
        order = sorted(labels, key=key)
        if order != list(labels) and len(set(labels)) == len(labels):
            yield ClassOrder(what, torch.tensor([labels.index(name) for name in order]), slice(None))
    found = _by_answers(len(labels), named[::2], right[::2])
    if found is not None:
        moved = [name for name, own in enumerate(found.tolist()) if own != name]
        told = f"{len(moved)} of {len(labels)} classes"
        if moved:
            told += f" have the place of another, such as '{labels[int(found[moved[0]])]}' that of "
            told += f"'{labels[moved[0]]}'"
        yield ClassOrder(told, found, slice(1, None, 2))


def _natural(name: str) -> list[Any]:
    # Numbers by their value, and before letters.
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]


_KEYS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    ("their names sorted as text", str),
    ("their names sorted by the numbers in them", _natural),
    ("their names sorted without regard to capitals", str.lower),
)


def _by_answers(num_classes: int, named: Tensor, right: Tensor) -> Tensor | None:
    """The most frequent right class for each that is named; None where two names stand for one class."""
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    counts.index_put_((named, right), torch.ones_like(named), accumulate=True)
    often = counts.sum(dim=1) >= _SEEN
    chosen = counts.argmax(dim=1)
    names, classes = int(often.sum()), set(chosen[often].tolist())
    if len(classes) < names or names < _MOST_NAMES * num_classes:
        return None
    return torch.where(often, chosen, torch.arange(num_classes))


# A classifier as torch initialises it.

_FLATNESS = 1.8  # kurtosis of the uniform distribution
_NEAR = 0.15
_ENOUGH = 100  # weights, to tell their distribution


def new_classifier(network: nn.Module, num_classes: int) -> str | None:
    """Name of the layer that gives the class scores, if nothing seems to have trained it.

    Its weights are uniform within one over the square root of its inputs, as torch initialises them; or its
    biases are all exactly zero, which training leaves none of.
    """
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == num_classes
    ]
    if not layers:
        return None
    name: str = layers[-1][0]
    layer = layers[-1][1]
    if layer.bias is not None and not bool(layer.bias.any()):
        return name
    return name if _is_initial(layer.weight.detach().cpu().double().flatten(1)) else None


def _is_initial(weights: Tensor) -> bool:
    if weights.numel() < _ENOUGH:
        return False
    bound = weights.shape[1] ** -0.5
    spread = float(weights.square().mean().sqrt())
    flatness = float(weights.pow(4).mean()) / max(spread, 1e-30) ** 4
    return (
        float(weights.abs().max()) <= 1.001 * bound
        and abs(spread / (bound / 3**0.5) - 1) < _NEAR
        and abs(flatness - _FLATNESS) < _NEAR
    )
