"""Batch-norm statistics, estimated anew from training images.

The running averages that training leaves lag behind the weights, and hold what they started from: after n
steps a share of (1 - momentum)^n of it. With torchvision's 0.01 for mobilenet_v3 that is two thirds of the
zeros and ones of an untrained network after 40 steps, and such a network answers at chance whatever its
weights have learnt. A plain average over some images at the final weights has neither fault (Wu and Johnson
2021, Rethinking "Batch" in BatchNorm, section 3; over a thousand images are as good as all).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jstc.channels.trace.ids import evaluating
from jstc.core.seeds import derive
from jstc.data import Epoch
from jstc.train import collectives
from jstc.train.device import Numerics
from jstc.train.job import Job

__all__ = ["MOST_IMAGES", "estimate", "has_statistics", "recalibrate", "recalibrate_trained"]

MOST_IMAGES = 4096
"""Training images for the statistics of a trained network; fewer where an epoch of the recipe has fewer."""


def recalibrate_trained(network: nn.Module, job: Job) -> int:
    """Estimate the statistics of `network`, which `job` has trained, for its evaluation in float32.

    The images are those that it was trained on, shuffled and augmented likewise: on images without the
    augmentation (black borders of shifts among it) statistics would be those of other activations than the
    weights were trained with. Mixed images are not among them. Of several processes each takes the same
    images, in batches as large as one process trains on. Returns the number of images, 0 without statistics.
    """
    settings, split = job.settings, job.split
    images = min(MOST_IMAGES, split.num_images, job.steps_per_epoch * settings.batch_size)
    batch_size = max(1, settings.batch_size // collectives.world())
    epoch = Epoch(derive(job.seed, "statistics"), 0, augment=job.augment)
    batches = islice(split.shuffled(batch_size, epoch), math.ceil(images / batch_size))
    numerics = Numerics(channels_last=settings.channels_last)
    used = recalibrate(network, batches, images=images, numerics=numerics)
    collectives.synchronise(network)  # GPUs of one kind may still choose other algorithms
    return used


def recalibrate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    images: int,
    numerics: Numerics | None = None,
) -> int:
    """Estimate running means and variances anew, as the plain average over at least `images` images.

    Returns the number of images used, as `estimate` does.
    """
    numerics = numerics or Numerics()
    forwards = ((len(batch), lambda b=batch: numerics.call(network, b)) for batch, _ in batches)
    return estimate(network, forwards, images=images)


@torch.no_grad()
def estimate(
    network: nn.Module, forwards: Iterable[tuple[int, Callable[[], object]]], *, images: int = 2**62
) -> int:
    """Estimate running means and variances anew, over `forwards` of the network, each with its examples.

    Only batch norms are in training mode meanwhile (no dropout), and nothing but their running statistics
    changes. Returns the number of examples used: fewer than asked when `forwards` ends (a last one of a
    single example is left out), and 0, without touching anything, when the network keeps no such statistics
    or there are no forwards. When a forward fails the statistics are as they were.
    """
    norms = _norms(network)
    seen, whole = 0, 0
    if not norms:
        return seen
    with evaluating(network), _momentum_kept(norms), _kept_unless_estimated(norms, lambda: seen):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for number, forward in forwards:
            whole = whole or number
            if number == 1 < whole:  # a norm of one value a channel has no variance, and torch refuses
                continue
            # torch's own cumulative average (momentum None) reads a counter back from the device for
            # every norm, and gives a short last batch the weight of a whole one.
            seen += number
            for norm in norms:
                norm.momentum = number / seen
            forward()
            if seen >= images:
                break
    return seen


def has_statistics(network: nn.Module) -> bool:
    """Whether a network has batch norms that keep running statistics."""
    return bool(_norms(network))


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _kept_unless_estimated(norms: list[_BatchNorm], seen: Callable[[], int]) -> Iterator[None]:
    """The statistics of before, where the block fails or has seen nothing."""
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    done = False
    try:
        yield
        done = seen() > 0
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in buffers.items() if not done else ():
                norm.get_buffer(name).copy_(buffer)


@contextmanager
def _momentum_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    before = [norm.momentum for norm in norms]
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
