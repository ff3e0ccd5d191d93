"""The test split as the stages use it: a network's accuracy, batches that count, a few images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jstc.pipeline.context import StageContext

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["accuracy", "batches", "images"]


def accuracy(context: StageContext, network: nn.Module) -> float:
    """Top-1 accuracy of `network` on the whole test split, in float32."""
    from jstc.train import device, loop

    settings = context.recipe.train
    placed = device.place(network, settings, context.workspace.device)
    return loop.evaluate(placed, batches(context), channels_last=settings.channels_last).accuracy


def batches(context: StageContext) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole test split in order, each batch counted as progress of the stage."""
    from jstc.train.batches import counted

    test, batch_size = context.workspace.dataset.test, context.recipe.train.batch_size
    return counted(test, batch_size, progress=context.progress, stage=context.folder.name)


def images(context: StageContext, count: int) -> Tensor:
    """The first `count` images of a spread over the test split, [N, C, H, W] on the CPU."""
    import torch

    found = context.workspace.dataset.test.ordered(count, limit=count)
    return torch.cat([batch.cpu() for batch, _ in found])
