"""Attributes of modules that repeat a width, and how they follow a cut.

torch's own layers are known. In others an attribute that a view needs (a number of heads, an inner width)
is found where the cut network fails: it has the size that no longer fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jstc.channels.groups import Structure
from jstc.channels.trace.ids import Ids
from jstc.errors import ChannelError

if TYPE_CHECKING:
    from jstc.channels.trace.state import TraceState

__all__ = ["Sized", "apply", "empty_caches", "repair_layer", "sized_attributes", "sized_norms", "values"]

_GEOMETRY = ("kernel", "stride", "pad", "dilation", "window", "patch", "grid", "seq", "depth")


_OWN_WIDTHS = ("num_features", "num_channels", "normalized_shape", "unflattened_size")
"""Attributes of torch's layers that may follow: those without parameters have nothing else to say it."""


@dataclass(frozen=True)
class Sized:
    """An integer attribute (`name`, or `name[index]`) of a module that is the size of a dimension."""

    module: str
    name: str
    index: int | None
    ids: Ids

    @property
    def key(self) -> str:
        """Qualified name of the attribute, such as `blocks.0.attn.num_heads`."""
        path = f"{self.module}.{self.name}" if self.module else self.name
        return path if self.index is None else f"{path}[{self.index}]"


def sized_attributes(
    module: nn.Module,
    path: str,
    sizes: Iterable[tuple[int, Ids]],
    parts: Sequence[tuple[int, Ids]] = (),
) -> Iterator[Sized]:
    """Attributes of `module` that hold one of `sizes`, or the sizes of all `parts` of a split.

    Those named like geometry (a kernel) are none.
    """
    by_size = {size: ids for size, ids in sizes if size > 1}
    own = {name: value for name, value in vars(module).items() if _may_follow(module, name)}
    # Of a number of heads and a width per head that are equal it is the former.
    heads = {value for name, value in own.items() if type(value) is int and _counts_heads(name)}
    for name, value in own.items():
        if type(value) is int and value in by_size and (value not in heads or _counts_heads(name)):
            yield Sized(path, name, None, by_size[value])
        elif isinstance(value, list | tuple) and all(type(part) is int for part in value):
            aligned = len(parts) > 1 and list(value) == [size for size, _ in parts]
            ids = [i for _, i in parts] if aligned else [by_size.get(part) for part in value]
            yield from (Sized(path, name, index, i) for index, i in enumerate(ids) if i is not None)


def sized_norms(traced: TraceState, modules: Mapping[str, nn.Module]) -> Iterator[Sized]:
    """Norms without any tensor that would say how wide they are; torch warns when they are told wrongly."""
    for operation in traced.record.operations:
        module = modules.get(operation.module)
        if isinstance(module, nn.modules.batchnorm._NormBase) and not module.affine:
            ids = traced.labels(operation.call.first)[1]
            if module.running_mean is None and ids is not None and len(ids) == module.num_features:
                yield Sized(operation.module, "num_features", None, ids)


def _may_follow(module: nn.Module, name: str) -> bool:
    if type(module).__module__.startswith("torch."):
        return name in _OWN_WIDTHS
    return not name.startswith("_") and not any(word in name for word in _GEOMETRY)


def _counts_heads(name: str) -> bool:
    return "head" in name and "dim" not in name


def values(sized: Iterable[Sized], structure: Structure, keep: Ids) -> dict[str, int]:
    """Values of the attributes after a cut (`keep`: see `slicing.keep_vector`), by qualified name."""
    return {s.key: int((keep[structure.number(s.ids)] == 1).sum()) for s in sized}


def apply(model: nn.Module, attributes: Mapping[str, int]) -> None:
    """Set attributes given by qualified name. Raises `ChannelError` where there is no such whole number."""
    for key, value in attributes.items():
        path, _, last = key.rpartition(".")
        name, _, index = last.removesuffix("]").partition("[")
        try:
            owner: Any = model.get_submodule(path)
            whole = vars(owner)[name]
            if index and not (isinstance(whole, list | tuple) and index.isdecimal()):
                raise TypeError
            old = whole[int(index)] if index else whole
            if not _may_follow(owner, name) and value != old:
                raise KeyError(name)  # a file from a stranger could change a stride
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            raise ChannelError(f"the network has no attribute '{key}'") from None
        if type(old) is not int or type(value) is not int or not 1 <= value <= old:
            raise ChannelError(f"the attribute '{key}' is {old!r} and can't become {value!r}")
        setattr(owner, name, _replaced(vars(owner)[name], int(index), value) if index else value)


def _replaced(old: list[int] | tuple[int, ...], index: int, value: int) -> list[int] | tuple[int, ...]:
    parts = [*old[:index], value, *old[index + 1 :]]
    return tuple(parts) if isinstance(old, tuple) else parts


_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def empty_caches(module: nn.Module) -> None:
    """Empty what the module's author calls a cache: it holds tensors of the uncut widths."""
    for name, value in list(vars(module).items()):
        if "cache" not in name or not any(isinstance(x, Tensor) for x in tree_leaves(value)):
            continue
        if isinstance(value, dict | list):
            value.clear()
        elif isinstance(value, Tensor):
            setattr(module, name, None)


def repair_layer(module: Any) -> None:
    """Attributes of torch's own layers that repeat the shape of a parameter."""
    if isinstance(module, _CONV):
        _repair_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = module.weight if module.weight is not None else module.running_mean
        module.num_features = len(tensor) if tensor is not None else module.num_features
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.RNNBase):
        _repair_recurrent(module)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape


def _repair_recurrent(module: Any) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = module.weight_hh_l0.shape[0] // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.proj_size = module.weight_hr_l0.shape[0] if module.proj_size else 0


def _repair_convolution(module: Any) -> None:
    first, second = module.weight.shape[:2]
    transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    if module.groups > 1 and second == 1 and module.in_channels == module.groups:  # depthwise
        multiplier = module.out_channels // module.groups
        module.groups = first // (1 if transposed else multiplier)
    inside, outside = (first, second * module.groups) if transposed else (second * module.groups, first)
    module.in_channels, module.out_channels = inside, outside
