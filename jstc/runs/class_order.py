"""Whether a network answers with classes in another order, or with a classifier that has learnt nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["ClassOrder", "class_orders", "new_classifier"]

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
