"""Batch-norm statistics of a network whose weights were cut or mixed since they were estimated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jstc.train.device import Numerics
from jstc.train.loop import evaluating

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    images: int,
    numerics: Numerics | None = None,
) -> int:
    """Estimate running means and variances anew, as the plain average over at least `images` images.

    Only batch norms are in training mode meanwhile (no dropout), and nothing but their running statistics
    changes. Returns the number of images used: fewer than asked when `batches` ends (a last one of a
    single image is left out), and 0, without touching anything, when the network keeps no such statistics.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    numerics, seen, whole = numerics or Numerics(), 0, 0
    if not norms:
        return seen
    with evaluating(network), _momentum_kept(norms):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for batch, _ in batches:
            whole = whole or len(batch)
            if len(batch) == 1 < whole:  # a norm of one value a channel has no variance, and torch refuses
                continue
            # torch's own cumulative average (momentum None) reads a counter back from the device for
            # every norm, and gives a short last batch the weight of a whole one.
            seen += len(batch)
            for norm in norms:
                norm.momentum = len(batch) / seen
            numerics.call(network, batch)
            if seen >= images:
                break
    return seen


@contextmanager
def _momentum_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    before = [norm.momentum for norm in norms]
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
