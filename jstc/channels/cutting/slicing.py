"""Cut a network to a plan, and put the slices back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jstc.channels.cutting.attention import adapt, repair_heads
from jstc.channels.cutting.attributes import apply, empty_caches, repair_layer
from jstc.channels.groups import Structure
from jstc.channels.trace.ids import Ids, named_modules, named_tensors
from jstc.channels.trace.memory import Kept, duplicate, forget
from jstc.errors import ChannelError
from jstc.plan import Plan

__all__ = [
    "Indices",
    "cut_module",
    "indices",
    "keep_vector",
    "mask_tensors",
    "put_tensors",
    "rebuild",
    "shared",
    "take_tensors",
]

Index = tuple[Tensor | None, ...]
Indices = dict[str, Index]
"""Kept positions per dimension for every tensor that a plan cuts; `None` for a dimension kept whole."""


def keep_vector(structure: Structure, plan: Plan) -> Ids:
    """1 for each kept channel number, 0 for the others, and a last 1 for the number -1.

    Raises `ChannelError` when the plan was made for other groups.
    """
    expected = {group.name: group.width for group in structure.groups}
    if dict(plan.widths) != expected:
        odd = [n for n in {**expected, **plan.widths} if expected.get(n) != plan.widths.get(n)]
        raise ChannelError(f"the plan was made for another network: group(s) {', '.join(odd[:5])} differ")
    keep = np.zeros(structure.total + 1, np.int64)
    keep[-1] = 1
    for group in structure.groups:
        keep[group.start + np.array(plan.kept[group.name])] = 1
    return keep


def indices(structure: Structure, plan: Plan) -> Indices:
    """Kept positions of every tensor that the plan cuts."""
    keep = keep_vector(structure, plan)
    arrays = [n for numbers in structure.numbers.values() for n in numbers if n is not None]
    ends = np.cumsum([len(n) for n in arrays])
    kept = np.flatnonzero(keep[np.concatenate([*arrays, np.zeros(0, np.int64)])])
    bounds = zip(np.searchsorted(kept, ends).tolist(), ends.tolist(), strict=True)
    found: Indices = {}
    first = start = 0
    for name, numbers in structure.numbers.items():
        index: list[Tensor | None] = [None] * len(numbers)
        for dim, n in enumerate(numbers):
            if n is not None:
                last, end = next(bounds)
                index[dim] = torch.from_numpy(kept[first:last] - start) if last - first < len(n) else None
                first, start = last, end
        if any(i is not None for i in index):
            found[name] = tuple(index)
    return found


def take_tensors(tensors: Mapping[str, Tensor], index: Indices) -> dict[str, Tensor]:
    """Slices of tensors that are named like parameters (weights, momentum, statistics); always copies."""
    return {name: _take(tensor.detach(), index.get(name)) for name, tensor in tensors.items()}


def _take(tensor: Tensor, index: Index | None) -> Tensor:
    cut = [(dim, kept) for dim, kept in enumerate(index or ()) if kept is not None]
    if not cut:
        return tensor.clone()
    if tensor.is_meta:
        shape = list(tensor.shape)
        for dim, kept in cut:
            shape[dim] = len(kept)
        return torch.empty(shape, dtype=tensor.dtype, device="meta")
    if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in _NUMPY:
        return torch.from_numpy(_take_array(tensor.numpy(), [(dim, kept.numpy()) for dim, kept in cut]))
    taken = tensor
    for dim, kept in cut:
        taken = taken.index_select(dim, kept.to(tensor.device))
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    if last and not tensor.is_contiguous():
        return taken.contiguous(memory_format=torch.channels_last)
    return taken


_MANY = 1 << 10  # columns from which on a call for each row costs less than the numbers of all positions


_NUMPY = {torch.float16, torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}


def _take_array(array: NDArray[Any], cut: Sequence[tuple[int, Ids]]) -> NDArray[Any]:
    """Slices by numpy, two to four times as fast as by `index_select`; both leading dimensions at once.

    Nothing as large as the slice is made on the way: fresh memory takes longer than the copy.
    """
    if [dim for dim, _ in cut] == [0, 1]:
        (_, rows), (_, columns) = cut
        if len(columns) < _MANY:
            positions = (rows[:, None] * array.shape[1] + columns).reshape(-1)
            flat: NDArray[Any] = array.reshape(-1, *array.shape[2:]).take(positions, axis=0)
            return flat.reshape(len(rows), len(columns), *array.shape[2:])
        taken = np.empty((len(rows), len(columns), *array.shape[2:]), array.dtype)
        for row, own in zip(rows.tolist(), taken, strict=True):
            array[row].take(columns, axis=0, out=own, mode="clip")
        return taken
    for dim, kept in cut:
        array = array.take(kept, axis=dim)
    return array


def put_tensors(small: Mapping[str, Tensor], tensors: Mapping[str, Tensor], index: Indices) -> None:
    """Write slices back to where `take_tensors` took them from."""
    with torch.no_grad():
        for name, value in small.items():
            _put(tensors[name], value.detach(), index.get(name))


def _put(tensor: Tensor, value: Tensor, index: Index | None) -> None:
    kept = [(dim, i.to(tensor.device)) for dim, i in enumerate(index or ()) if i is not None]
    if not kept:
        tensor.copy_(value)
    elif len(kept) == 1:
        tensor.index_copy_(kept[0][0], kept[0][1], value.to(tensor.dtype))
    else:
        whole = [torch.arange(n, device=tensor.device) for n in tensor.shape]
        for dim, i in kept:
            whole[dim] = i
        tensor[torch.meshgrid(*whole, indexing="ij")] = value.to(tensor.dtype)


def mask_tensors(model: nn.Module, structure: Structure, plan: Plan) -> None:
    """Zero every parameter at removed positions: what slicing must equal where it is exact."""
    keep = keep_vector(structure, plan)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for dim, numbers in enumerate(structure.numbers[name]):
                if numbers is not None:
                    removed = torch.from_numpy(np.flatnonzero(keep[numbers] == 0))
                    parameter.index_fill_(dim, removed.to(parameter.device), 0.0)


def cut_module(
    model: nn.Module, index: Indices, attributes: Mapping[str, int], kept: Sequence[Kept] = ()
) -> nn.Module:
    """A fresh module of the same class with sliced parameters and repaired attributes.

    The tensors of `model` are not copied whole: the copy is made with the slices in their place. What its
    forward has `kept` in the modules is left behind.
    """
    small = rebuild(model, take_tensors(dict(named_tensors(model)), index), attributes)
    forget(small, kept)
    return small


def rebuild(
    model: nn.Module, tensors: Mapping[str, Tensor], attributes: Mapping[str, int] | None = None
) -> nn.Module:
    """A fresh module of the same class that holds `tensors` in place of its own, attributes repaired.

    `attributes` are those that torch's own layers do not have (see `jstc.channels.cutting.attributes`).
    Raises `ChannelError` when the names differ, or a tensor is larger than the one that it replaces.
    """
    memo: dict[int, Any] = {}
    own = dict(named_tensors(model))
    if own.keys() != tensors.keys():
        missing, more = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        told = [
            f"{len(names)} {where}, such as '{names[0]}'"
            for names, where in ((missing, "only in the network"), (more, "only among the tensors"))
            if names
        ]
        raise ChannelError(
            f"the tensors are not those of this network: {' and '.join(told)}",
            "build it as it was before the cut, and run it once where its first forward makes buffers",
        )
    for name, tensor in own.items():
        new = tensors[name]
        if new.dim() != tensor.dim() or any(a > b for a, b in zip(new.shape, tensor.shape, strict=True)):
            shapes = f"{list(new.shape)}, the network's own {list(tensor.shape)}"
            raise ChannelError(f"the tensor '{name}' does not fit: its shape is {shapes}")
        memo[id(tensor)] = (
            nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        )
    small = duplicate(model, memo)
    adapt(small, [name for name, tensor in own.items() if tensors[name].shape != tensor.shape])
    for _, module in named_modules(small):
        empty_caches(module)
        repair_layer(module)
        repair_heads(module)
    apply(small, attributes or {})
    return small


def shared(model: nn.Module, small: nn.Module) -> nn.Module:
    """`model`, or where layers of `small` have forwards that allow for a cut, a copy that has them, too.

    The copy has the very tensors of `model`.
    """
    pairs = zip(named_modules(model), named_modules(small), strict=True)
    adapted = [path for (path, own), (_, other) in pairs if type(own) is not type(other)]
    if not adapted:
        return model
    tensors = dict(named_tensors(model))
    copied = duplicate(model, {id(tensor): tensor for tensor in tensors.values()})
    adapt(copied, [f"{path}." for path in adapted])
    return copied
