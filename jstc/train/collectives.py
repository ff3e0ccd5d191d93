"""Exchanges between processes, one per GPU, that train one network together.

torchrun starts them; torch's process groups and its store do the work. Everything here is about the block
inside `together()`. Outside it, and with one process, the world is 1 and all of this does nothing: so what
process 0 does alone (files, export, measuring) is the same code as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from jstc.core import processes
from jstc.data.base import WHOLE, Part
from jstc.errors import StageError
from jstc.train.process_group import membership

__all__ = [
    "agreed",
    "average",
    "averaging",
    "copy_from_first",
    "decided",
    "fingerprint",
    "from_first",
    "is_first",
    "own_seed",
    "part",
    "rank",
    "require_equal",
    "require_same",
    "share",
    "sums",
    "synchronise",
    "together",
    "whole_batch_norms",
    "world",
]

T = TypeVar("T")
Saved = tuple[dict[str, Tensor], dict[str, Any]]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """In the block all processes work on the same; everything outside it, each does for itself."""
    before, membership.active = membership.active, processes.several()
    try:
        yield
    finally:
        membership.active = before


def world() -> int:
    """Number of processes at work on the same."""
    return processes.world() if membership.active else 1


def rank() -> int:
    """Number of this process among them."""
    return processes.rank() if membership.active else 0


def is_first() -> bool:
    """Whether this process is the one that decides, writes and speaks."""
    return rank() == 0


def part() -> Part:
    """This process's share of every batch."""
    return Part(rank(), world()) if world() > 1 else WHOLE


def decided(decide: Callable[[], T]) -> T:
    """The JSON document that process 0 decides on, in all processes; the others do not call `decide`.

    An error of process 0's is raised in all of them.
    """
    if world() == 1:
        return decide()
    if not is_first():
        found: T = _opened(_broadcast(None))
        return found
    try:
        value = decide()
    except Exception as error:
        _broadcast({"error": str(error)})
        raise
    _broadcast({"value": value})
    return value


def agreed(check: Callable[[], T]) -> T:
    """What `check` gives in each process, where it fails in none; its error, or a `StageError` of others'."""
    found: list[T] = []
    error: Exception | None = None
    try:
        found.append(check())
    except Exception as own:
        error = own
    failed = (
        [] if world() == 1 else [int(each) for each in _gathered(torch.tensor([error is not None]).int())]
    )
    if error is not None:
        raise error
    if any(failed):
        raise StageError(f"process {failed.index(1)} has refused what it was given; nothing was taken over")
    return found[0]


def _opened(document: Any) -> Any:
    if "error" in document:
        raise StageError(document["error"])
    return document["value"]


def _broadcast(document: Any) -> Any:
    data = b"" if document is None else json.dumps(document).encode()
    size = torch.tensor([len(data)])
    dist.broadcast(size, src=0, group=membership.control)
    text = torch.empty(int(size), dtype=torch.uint8)
    if is_first():
        text = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    dist.broadcast(text, src=0, group=membership.control)
    return json.loads(text.numpy().tobytes())


def _gathered(values: Tensor) -> list[Tensor]:
    """The `values` of all processes, by rank."""
    found = [torch.empty_like(values) for _ in range(world())]
    dist.all_gather(found, values, group=membership.control)
    return found


def from_first(load: Callable[[], Saved | None]) -> Saved | None:
    """Tensors and a JSON document that process 0 loads, on the CPU, in all processes: files are its own."""
    if world() == 1:
        return load()
    loaded: list[Saved | None] = []
    found = decided(lambda: _described(loaded, load()))
    if found is None:
        return None
    forms, document = found
    kinds = {name: (getattr(torch, dtype), shape) for name, dtype, shape in forms}
    tensors = (
        loaded[0][0] if loaded and loaded[0] else {n: torch.empty(s, dtype=d) for n, (d, s) in kinds.items()}
    )
    for tensor in tensors.values():
        dist.broadcast(tensor, src=0, group=membership.control)
    return tensors, document


def _described(loaded: list[Saved | None], saved: Saved | None) -> Any:
    loaded.append(saved)
    if saved is None:
        return None
    tensors, document = saved
    return [[n, str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in tensors.items()], document


def require_same(text: str, what: str) -> None:
    """Raise `StageError` in all processes unless `text` is the same in all of them."""
    if world() == 1:
        return
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    found = [int(value) for value in _gathered(torch.tensor([number]))]
    others = [str(rank) for rank, value in enumerate(found) if value != found[0]]
    if others:
        raise StageError(
            f"{what} is another on process {', '.join(others)} than on process 0: the processes have drifted "
            "apart; do all machines have the same versions, data and GPUs?"
        )


def sums(values: Sequence[float]) -> list[float]:
    """Sums over the processes in float64, added by rank: the same bits everywhere, whole numbers exact."""
    if world() == 1:
        return list(values)
    gathered = _gathered(torch.tensor(list(values), dtype=torch.float64))
    return [sum(column) for column in zip(*(each.tolist() for each in gathered), strict=True)]


def own_seed() -> tuple[int, ...]:
    """Seed words by which random numbers of this process differ from those of process 0, which has none."""
    return () if is_first() else (rank(),)


def share(images: int, *, whole: int) -> float:
    """Weight of a mean over this process's `images` of a batch of `whole` in the mean over processes."""
    return 1.0 if world() == 1 else images * world() / whole


def average(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over the processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
        tensor /= world()
    return tensor


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give `tensors`, in place, the values that they have in process 0."""
    if world() == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    with torch.no_grad():
        for alike in kinds.values():  # all of one kind at once: a network has hundreds of small ones
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.broadcast(flat, src=0, group=membership.control if flat.device.type == "cpu" else None)
            sizes = [tensor.numel() for tensor in alike]
            for tensor, values in zip(alike, torch.split(flat, sizes), strict=True):
                tensor.copy_(values.view(tensor.shape))


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """The sum of the bits of every tensor, as whole numbers: equal tensors give equal text, on any device."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums_: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        bits = tensor.detach().view(whole[tensor.element_size()])
        sums_.setdefault(tensor.device, []).append(bits.sum(dtype=torch.int64))
    return json.dumps([torch.stack(found).tolist() for found in sums_.values()])


# One network in several processes: gradients averaged by torch's DistributedDataParallel, tensors equal.


@contextmanager
def averaging(network: nn.Module, *, sync_batchnorm: bool = False) -> Iterator[nn.Module]:
    """For the block: `network` with gradients that are the mean over the processes; itself where it is alone.

    Only parameters that require gradients when the block is entered are looked after. Batch norms take their
    statistics over the process's own share of a batch, with `sync_batchnorm` over the whole one. At the end
    of the block all processes have the running statistics of process 0.
    """
    if world() == 1:
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
        if wanted and world() > 1 and isinstance(norm, _BatchNorm)
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
    copy_from_first(cast("list[Tensor]", list(network.buffers())))


def require_equal(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise `StageError` in all processes unless `tensors` are the same in all of them, bit for bit.

    Costs a sum over every tensor.
    """
    if world() > 1:
        require_same(fingerprint(tensors.values()), what)
