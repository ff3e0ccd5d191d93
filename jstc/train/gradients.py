"""From a batch to a changed network: forward and backward in one go or in parts, clipping, the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from jstc.train.loss import Criterion

__all__ = ["accumulate", "step"]

Scaler = torch.amp.GradScaler | None


def accumulate(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    criterion: Criterion,
    parts: int = 1,
    scaler: Scaler = None,
    weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of the mean loss over a batch; returns that loss and the scores [N, classes].

    The batch goes through the network in `parts`, each of which counts by its images: the gradients are
    those of the whole, but batch norms see the parts. `weight` multiplies the gradients alone.
    """
    losses, scores = [], []
    for (x, y), context in _parts(network, images, labels, max(1, min(parts, len(images)))):
        with context:
            loss, score = criterion(network, x, y)
            share = len(x) / len(images) if len(images) else 1.0
            weighted = loss if share * weight == 1.0 else loss * (share * weight)
            (weighted if scaler is None else scaler.scale(weighted)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach() * share)
        scores.append(score)
    return torch.stack(losses).sum(), torch.cat(scores)


def _parts(
    network: nn.Module, images: Tensor, labels: Tensor, number: int
) -> Iterator[tuple[tuple[Tensor, Tensor], AbstractContextManager[None]]]:
    # Processes exchange their gradients once, with the last part.
    no_sync = getattr(network, "no_sync", nullcontext)
    pairs = zip(images.tensor_split(number), labels.tensor_split(number), strict=True)
    for done, pair in enumerate(pairs, start=1):
        yield pair, (nullcontext() if done == number else no_sync())


def step(optimizer: torch.optim.Optimizer, *, clip_norm: float | None = None, scaler: Scaler = None) -> None:
    """One step with the gradients that are there, their norm at most `clip_norm`.

    With a `scaler`, a step whose gradients are not finite is left out, and the next scale is lower.
    """
    if scaler is not None and clip_norm is not None:
        scaler.unscale_(optimizer)
    if clip_norm is not None:
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        nn.utils.clip_grad_norm_(tensors, clip_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
