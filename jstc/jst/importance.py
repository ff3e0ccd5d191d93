"""What a trained network loses with each of its channels, to first order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jstc.core.progress import Progress
from jstc.data import Split
from jstc.jst.round import Work, frozen
from jstc.jst.subnetwork import Target
from jstc.plan import Plan
from jstc.recipe.schema import SearchSettings
from jstc.train import collectives
from jstc.train.device import as_input
from jstc.train.loop import evaluating, logits

__all__ = ["num_images", "taylor"]

_BATCH = 8
"""Over many images the gradients of a trained network add up to nothing; one by one they take too long."""


def num_images(search: SearchSettings, split: Split) -> int:
    """Of the training `split`, those that channels are ranked by: none, unless `importance` asks for it."""
    return min(search.importance_images, split.num_images) if search.measures_losses else 0


def taylor(target: Target, work: Work, progress: Progress) -> Tensor:
    """|gate x gradient of the loss in the gate| [prunable channels], relative to the mean of each group.

    The first term of the loss's expansion for a channel that is taken out (Molchanov et al. 2017), the mean
    over batches of a few training images, in float32 and evaluation mode. Groups without a gradient, such as
    those that have no place for a gate, rank by the norms of their weights. Of several processes each does
    its part of the images. Nothing of `target` changes.
    """
    network, channels = target.network, target.channels
    gated = channels.gated(network, Plan.full(channels.widths))
    total = torch.zeros_like(target.alpha)
    count, size = num_images(work.recipe.search, work.dataset.train), _BATCH * collectives.world()
    split = work.dataset.train.ordered(size, limit=count, part=collectives.part())
    progress.start("search", -(-count // size), "ranking batch")
    with evaluating(network), frozen(*network.parameters()), torch.enable_grad():
        gated.alpha.data.copy_(target.alpha)
        for number, (images, labels) in enumerate(split, start=1):
            scores = logits(gated(as_input(images, channels_last=work.options.channels_last)))
            loss = F.cross_entropy(scores.float(), labels)
            if loss.requires_grad:  # which it does not where no group has a place for a gate
                (gradient,) = torch.autograd.grad(loss, [gated.alpha])
                total += (gradient * target.alpha).abs()
            progress.update(number)
    collectives.average(total)
    norms = channels.magnitude(network)
    for group in channels.groups:
        own = total[group.start : group.start + group.width]
        own.copy_(own / own.mean() if own.any() else norms[group.name])
    collectives.copy_from_first([total])  # divisions on unequal devices may differ in the last bit
    return total
