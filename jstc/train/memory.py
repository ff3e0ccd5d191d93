"""Which batch would have fitted, when the memory of a GPU ran out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from jstc.errors import StageError
from jstc.train import distributed
from jstc.train.loss import Criterion

__all__ = ["explained", "largest"]

T = TypeVar("T")


def explained(
    work: Callable[[], T], network: nn.Module, images: Tensor, criterion: Criterion, parts: int
) -> T:
    """The result of `work`, the forward and backward of `images` [N, C, H, W] in so many `parts`.

    Raises `StageError` when the memory runs out in it, with the batch that fits, found by trying. The
    training is over then: trying changes gradients and the statistics of batch norms.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0].splitlines()[0]
    # Not in the handler: as long as the error is there, so is every activation of the step.
    at_once = -(-len(images) // parts)
    found = None if distributed.world() > 1 else largest(network, images, criterion, below=at_once)
    raise StageError(_advice(images, parts=parts, fits=found, reason=reason)) from None


def largest(network: nn.Module, images: Tensor, criterion: Criterion, *, below: int) -> int:
    """How many of `images` fit at once, of half of `below`, a quarter and so on; 0 when one does not fit."""
    number = below // 2
    while number and not _fits(network, images[:number], criterion):
        number //= 2
    return number


def _fits(network: nn.Module, images: Tensor, criterion: Criterion) -> bool:
    try:
        network.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        criterion(network, images, labels)[0].backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return False
    except ValueError:  # a batch norm that gets a single value has no statistics
        return False
    return True


def _advice(images: Tensor, *, parts: int, fits: int | None, reason: str) -> str:
    number, size = len(images), "x".join(map(str, images.shape[1:]))
    told = f"out of memory on {images.device}, training with batches of {number} images of {size}"
    if parts > 1:
        told += f" in {parts} parts"
    if fits is None:
        return f"{told} in each process ({reason}); halve train.batch_size, or double train.accumulate"
    if not fits:
        return f"{told} ({reason}); not one image fits: use a smaller network, or a smaller input.image_size"
    return (
        f"{told} ({reason}); {fits} at once fit: start over with train.batch_size={fits * parts}, or with "
        f"train.accumulate={-(-number // fits)}, which keeps the batch (--set KEY=VALUE --fresh)"
    )
