"""One network in several processes: gradients averaged by torch's DistributedDataParallel, tensors equal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from jstc.train import collectives

__all__ = ["averaging", "require_equal", "synchronise", "whole_batch_norms"]


@contextmanager
def averaging(network: nn.Module, *, sync_batchnorm: bool = False) -> Iterator[nn.Module]:
    """For the block: `network` with gradients that are the mean over the processes; itself where it is alone.

    Only parameters that require gradients when the block is entered are looked after. Batch norms take their
    statistics over the process's own share of a batch, with `sync_batchnorm` over the whole one. At the end
    of the block all processes have the running statistics of process 0.
    """
    if collectives.world() == 1:
        yield network
        return
    with whole_batch_norms(network, wanted=sync_batchnorm):
        try:
            yield _wrapped(network)
        finally:
            for parameter in network.parameters():  # views of memory that belongs to the wrapper
                parameter.grad = None
    synchronise(network)


def _wrapped(network: nn.Module) -> DistributedDataParallel:
    # Parameters are equal already, and checked to be: nothing is sent to say so. Some networks have heads
    # that training does not use; looking for them takes a fraction of a millisecond.
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    wrapped = DistributedDataParallel(
        network, init_sync=False, find_unused_parameters=True, gradient_as_bucket_view=True
    )
    # As an option it is called differently in every version of torch.
    wrapped.broadcast_buffers = False
    return wrapped


@contextmanager
def whole_batch_norms(network: nn.Module, *, wanted: bool) -> Iterator[None]:
    """For the block, where `wanted`, batch norms that take statistics over the parts of all processes.

    They share all tensors with the ordinary ones, which are back in their places afterwards.
    """
    ordinary = {
        (parent, name): norm
        for parent in network.modules()
        for name, norm in parent.named_children()
        if wanted and collectives.world() > 1 and isinstance(norm, _BatchNorm)
    }
    try:
        for (parent, name), norm in ordinary.items():
            setattr(parent, name, _of_whole_batch(norm))
        yield
    finally:
        for (parent, name), norm in ordinary.items():
            norm.train(getattr(parent, name).training)
            setattr(parent, name, norm)


def _of_whole_batch(norm: nn.Module) -> nn.Module:
    found: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
    return found


def synchronise(network: nn.Module) -> None:
    """Give all processes the buffers that `network` has in process 0."""
    collectives.copy_from_first(cast("list[Tensor]", list(network.buffers())))


def require_equal(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise `StageError` in all processes unless `tensors` are the same in all of them, bit for bit.

    Costs a sum over every tensor.
    """
    if collectives.world() > 1:
        collectives.require_same(collectives.fingerprint(tensors.values()), what)
