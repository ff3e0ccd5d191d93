"""A network on an example as flat, named tensors, and the same call with tensors of other sizes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_map_only, tree_unflatten

from jstc.channels.trace.ids import tensors_held
from jstc.channels.trace.tracer import arguments
from jstc.errors import InputError

__all__ = ["BATCH", "Call", "Sizes", "dynamic_sizes", "free", "runs"]

BATCH = "batch"
"""Name of the first size of the inputs, where it is dynamic."""

Sizes = Mapping[str, Mapping[int, str]]
"""Names of dynamic sizes, by input and dimension."""


class _Flat(nn.Module):
    """`network` as a module from tensors to tensors."""

    def __init__(
        self,
        network: nn.Module,
        place: Callable[[Sequence[Tensor]], Any],
        pick: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__()
        self.network, self.place, self.pick = network, place, pick

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(tensors).values())

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        args, kwargs = self.place(tensors)
        found = self.network(*args, **kwargs)
        return _named(found if self.pick is None else self.pick(found))


@dataclass(frozen=True)
class Call:
    """A network that takes flat tensors, those that it takes here by name, and the names of what it gives.

    `network` holds the one that was given as its submodule `network`.
    """

    network: _Flat
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, network: nn.Module, example: Any, pick: Callable[[Any], Any] | None) -> Call:
        """The call of `network`, in float32 on the CPU, that `example` stands for (`tracer.arguments`).

        Inputs have the names of the forward's parameters, outputs of what `pick` takes of them those of keys,
        fields and positions. Raises `InputError` when the call cannot be made, or has no tensor as output.
        """
        leaves, spec = tree_flatten_with_path(tree_map_only(Tensor, _plain, arguments(example)))
        for _, leaf in leaves:
            if not isinstance(leaf, Tensor) and tensors_held(leaf):
                raise InputError(
                    f"example: a {type(leaf).__name__} holds tensors, and an ONNX file takes plain ones",
                    "wrap the network in a module that takes its tensors and makes the object",
                )

        def place(tensors: Sequence[Tensor]) -> Any:
            waiting = iter(tensors)
            filled = [next(waiting) if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
            return tree_unflatten(filled, spec)

        named = [(_input_name(network, path), leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
        inputs = dict(zip(_unique([name for name, _ in named]), [t for _, t in named], strict=True))
        flat = _Flat(network, place, pick).eval()
        try:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                found = flat.named([tensor.clone() for tensor in inputs.values()])
        except Exception as error:  # whatever a forward raises
            raise InputError(
                f"the network cannot run the example: {type(error).__name__}: {error}"
            ) from error
        if not found:
            raise InputError(
                "the network gives no tensor for the example, so that a file would have no output"
            )
        taken = {*inputs, *found}
        outputs = [free(f"{name}_out", taken) if name in inputs else name for name in found]
        return cls(flat, inputs, tuple(outputs))

    def of_copy(self, network: nn.Module) -> Call:
        """The call of a copy of its network: one that has not run yet, and has no sizes in its attributes."""
        return dataclasses.replace(self, network=_Flat(network, self.network.place, self.network.pick).eval())

    @property
    def batched(self) -> list[str]:
        """The inputs that share the first size of the first one that has any."""
        count = next((len(tensor) for tensor in self.inputs.values() if tensor.dim()), None)
        return [name for name, tensor in self.inputs.items() if tensor.dim() and len(tensor) == count]

    def resized(self, sizes: Mapping[str, Mapping[int, int]]) -> Call:
        """The call with inputs of other sizes, by name and dimension, of the numbers that are there."""
        inputs = dict(self.inputs)
        for name, wanted in sizes.items():
            for dim, size in wanted.items():
                there = inputs[name].shape[dim]
                inputs[name] = inputs[name].index_select(dim, torch.arange(size) % there)
        return dataclasses.replace(self, inputs=inputs)

    def run(self) -> list[Tensor]:
        """What torch gives, in whole products of float32."""
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                return list(self.network(*(tensor.clone() for tensor in self.inputs.values())))
        finally:
            torch.set_float32_matmul_precision(precision)

    def named(self, sizes: Sizes) -> dict[str, int]:
        """The dynamic sizes of this call, by name."""
        return {
            own: self.inputs[name].shape[dim] for name, dims in sizes.items() for dim, own in dims.items()
        }


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().to("cpu", copy=True)
    return tensor.float() if tensor.is_floating_point() else tensor


# Names.


def _input_name(network: nn.Module, path: Sequence[Any]) -> str:
    by_keyword, first, *rest = [getattr(key, "key", getattr(key, "idx", key)) for key in path]
    if not by_keyword:
        names = [
            parameter.name
            for parameter in inspect.signature(network.forward).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        first = names[first] if first < len(names) else f"input_{first}"
    return "_".join(str(part) for part in (first, *rest))


def _named(tree: Any) -> dict[str, Tensor]:
    """Tensors in tuples, lists, dicts and objects by the keys, fields and positions on the way to them."""
    found = list(_walked(tree, "", frozenset()))
    return dict(zip(_unique([name or "output" for name, _ in found]), [t for _, t in found], strict=True))


def _walked(tree: Any, name: str, above: frozenset[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield name, tree
    elif id(tree) not in above and not isinstance(tree, str | bytes | type | nn.Module):
        listed = isinstance(tree, tuple | list) and not hasattr(tree, "_fields")
        lead = f"{name}_" if name else "output_" if listed else ""
        for key, part in _parts(tree):
            yield from _walked(part, f"{lead}{key}", above | {id(tree)})


def _parts(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, Mapping):
        yield from tree.items()
    elif hasattr(tree, "_fields"):  # a named tuple
        yield from zip(tree._fields, tree, strict=True)
    elif isinstance(tree, tuple | list):
        yield from enumerate(tree)
    elif dataclasses.is_dataclass(tree):
        yield from ((field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree))
    else:
        yield from getattr(tree, "__dict__", {}).items()


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        found.append(free(name, set(found)))
    return found


def free(name: str, taken: set[str]) -> str:
    """`name`, or the first one with underscores behind it that is not taken."""
    while name in taken:
        name += "_"
    return name


# Dynamic sizes: which they are, and calls of other sizes.


def dynamic_sizes(
    call: Call, batch: int | Literal["dynamic"] | None, more: Mapping[str, Mapping[int, str]]
) -> Sizes:
    """The dynamic sizes of a call: the batch's, and those that `more` names.

    Raises `InputError` for an input or a dimension that is not there, and a name of two different sizes.
    """
    found: dict[str, dict[int, str]] = {}
    if batch == "dynamic":
        found = {name: {0: BATCH} for name in call.batched}
    elif batch is not None and (type(batch) is not int or batch < 1):
        raise InputError(f"batch={batch!r}: expected 'dynamic', a whole number from 1 on, or None")
    sizes = call.named(found)
    for name, dims in more.items():
        if name not in call.inputs:
            raise InputError(f"dynamic: there is no input '{name}'; there are {', '.join(call.inputs)}")
        shape = list(call.inputs[name].shape)
        for dim, own in dims.items():
            if dim not in range(len(shape)) or not str(own).isidentifier():
                raise InputError(f"dynamic: {dim}: {own!r} names no dimension of '{name}' {shape}")
            if sizes.setdefault(own, shape[dim]) != shape[dim]:
                raise InputError(f"dynamic: '{own}' is {shape[dim]} in '{name}' and {sizes[own]} elsewhere")
        found[name] = {**found.get(name, {}), **dims}
    return found


def runs(call: Call, sizes: Sizes) -> Iterator[Call]:
    """The call itself, and one of other sizes that the network takes, where some are dynamic."""
    yield call
    before = call.named(sizes)
    batch = {BATCH: 3 if before[BATCH] == 2 else 2} if BATCH in before else {}
    others = [name for name in before if name != BATCH]
    tried = [{name: max(1, int(before[name] * factor)) for name in others} for factor in (2, 0.5) if others]
    for wanted in (*tried, {}):
        changed = before | wanted | batch
        if changed != before and (found := _other(call, sizes, changed)) is not None:
            yield found
            return


def _other(call: Call, sizes: Sizes, wanted: Mapping[str, int]) -> Call | None:
    found = call.resized(
        {name: {dim: wanted[own] for dim, own in dims.items()} for name, dims in sizes.items()}
    )
    try:
        found.run()
    except Exception:  # sizes that it does not take are none to compare at
        return None
    return found
