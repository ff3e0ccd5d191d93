"""Exchanges between processes, one per GPU, that train one network together.

torchrun starts them; torch's process groups and its store do the work. Everything here is about the block
inside `together()`. Outside it, and with one process, the world is 1 and all of this does nothing: so what
process 0 does alone (files, export, measuring) is the same code as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from jstc.core import processes
from jstc.data.base import WHOLE, Part
from jstc.errors import StageError
from jstc.train.process_group import membership

__all__ = [
    "average",
    "copy_from_first",
    "decided",
    "fingerprint",
    "from_first",
    "is_first",
    "own_seed",
    "part",
    "rank",
    "require_same",
    "share",
    "sums",
    "together",
    "world",
]

T = TypeVar("T")
Saved = tuple[dict[str, Tensor], dict[str, Any]]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """In the block all processes work on the same; everything outside it, each does for itself."""
    membership.active = processes.several()
    try:
        yield
    finally:
        membership.active = False


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
