"""A network with its inputs and its own loss: what the checks need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Case", "Inputs", "Make", "classes", "images", "noise", "segmentation", "token_ids"]

Inputs = Callable[[int], tuple[Any, ...]]
"""Positional inputs of a batch of so many examples, the same ones at every call."""


@dataclass
class Case:
    """A network, what it is called with, and the loss that it is trained with (in training mode).

    `outputs` picks what a user needs of the results. `part` names the submodule that alone is cut where the
    whole cannot be followed, and `part_inputs` are what it is given.
    """

    network: nn.Module
    inputs: Inputs
    loss: Callable[[nn.Module], Tensor]
    outputs: Callable[[Any], Any] | None = None
    part: str | None = None
    part_inputs: Inputs | None = None
    compared: tuple[str, ...] = ()


Make = Callable[[], Case]


def _generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Inputs:
    """Normal noise [batch, *shape]."""
    return lambda batch: (torch.randn(batch, *shape, generator=_generator()),)


def images(size: int, channels: int = 3) -> Inputs:
    """Square images [batch, channels, size, size] of noise."""
    return noise(channels, size, size)


def token_ids(length: int, words: int) -> Inputs:
    """Texts [batch, length] of random words."""
    return lambda batch: (torch.randint(0, words, (batch, length), generator=_generator()),)


def classes(number: int, *shape: int) -> Tensor:
    """Random class indices."""
    return torch.randint(0, number, shape, generator=_generator(6))


def segmentation(
    inputs: Inputs, number: int, batch: int, pick: Callable[[Any], Tensor] = lambda found: found
) -> Callable[[nn.Module], Tensor]:
    """The cross entropy of every pixel's logits [batch, number, H, W]."""

    def loss(network: nn.Module) -> Tensor:
        logits = pick(network(*inputs(batch)))
        return F.cross_entropy(logits, classes(number, batch, *logits.shape[-2:]).to(logits.device))

    return loss
