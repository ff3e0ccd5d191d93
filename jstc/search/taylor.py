"""What a trained network loses with each of its channels, to first order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jstc.plan import Plan
from jstc.progress import Progress
from jstc.search.round import Work, frozen
from jstc.search.updater import Target, cut
from jstc.train import distributed
from jstc.train.device import as_input
from jstc.train.loop import evaluating, logits

__all__ = ["num_images", "taylor"]

_BATCH = 8
"""Over many images the gradients of a trained network add up to nothing; one by one they take too long."""


def num_images(work: Work) -> int:
    """Training images that the channels are ranked by: none, unless `search.importance` asks for it."""
    search = work.recipe.search
    return min(search.taylor_images, work.dataset.train.num_images) if search.importance == "taylor" else 0


def taylor(target: Target, work: Work, progress: Progress) -> Tensor:
    """|gate x gradient of the loss in the gate| [prunable channels], relative to the mean of each group.

    The first term of the loss's expansion for a channel that is taken out (Molchanov et al. 2017), the mean
    over batches of a few training images, in float32 and evaluation mode. Of several processes each does its
    part of the images.
    """
    whole = cut(target, Plan.full(target.channels.widths), work.recipe.train).gated
    count = num_images(work)
    size = _BATCH * distributed.world()
    split = work.dataset.train.ordered(size, limit=count, part=distributed.part())
    total = torch.zeros_like(target.alpha)
    progress.start("search", -(-count // size), "gradient")
    with evaluating(whole), frozen(*whole.network.parameters()):
        for number, (images, labels) in enumerate(split, start=1):
            scores = logits(whole(as_input(images, channels_last=work.options.channels_last)))
            loss = F.cross_entropy(scores.float(), labels)
            if loss.requires_grad:  # where no group has a place for a gate, all channels are alike
                (gradient,) = torch.autograd.grad(loss, [whole.alpha])
                total += (gradient * whole.alpha.detach()).abs()
            progress.update(number)
    distributed.average(total)
    for group in target.channels.groups:
        own = total[group.start : group.start + group.width]
        own /= own.mean().clamp_min(1e-12)
    return total
