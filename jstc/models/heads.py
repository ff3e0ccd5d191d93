"""The classifier of a network as the one part of it that weights may lack: for other classes it starts anew.

Which part that is, is found by running the network: everything else with weights comes before it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from jstc.models.catalogue import ModelSpec
from jstc.models.placement import COUNTER

__all__ = ["NewHead", "new_head"]

_OF_VECTORS = (nn.Linear, nn.LayerNorm, nn.BatchNorm1d)  # what a classifier of several layers is made of
_IMAGES = 2  # a batch norm of vectors takes no single one


@dataclass(frozen=True)
class NewHead:
    """Layers of the classifier, by name, for which there are no weights.

    `classes` is the number that the weights tell apart, where they have such layers for other classes.
    """

    layers: tuple[str, ...]
    classes: int | None

    def sentence(self, source: str, num_classes: int) -> str:
        """Sentence on it; `source` is what the weights are called."""
        names = " and ".join(f"`{name}`" for name in self.layers)
        anew = f"{names} {'starts' if len(self.layers) == 1 else 'start'} anew"
        if self.classes is None:
            return f"weights {source} have no such classifier: {anew}"
        return f"weights {source} are for {self.classes:,} classes, {num_classes:,} here: {anew}"

    def filled_up(self, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors `given`, with those of the layers as they are in the network's `own`."""
        new = {key: value for key, value in own.items() if _layer(key) in self.layers}
        return {key: value for key, value in given.items() if key in own} | new


def new_head(model: nn.Module, given: Mapping[str, Tensor], spec: ModelSpec) -> NewHead | None:
    """The classifier of `model`, if it and nothing else is what `given` lacks or has for other classes.

    `spec` says which images the network is run on, in evaluation mode; it stays as it is.
    """
    known = model.state_dict()
    own = {key: value for key, value in known.items() if not key.endswith(COUNTER)}
    odd = [key for key in own if key not in given or given[key].shape != own[key].shape]
    layers = list(dict.fromkeys(map(_layer, odd)))
    resized = [key for key in odd if key in given]
    if (
        not layers
        or len(odd) == len(own)
        or any(_layer(key) in layers and key not in odd for key in own)
        or not all(_differ_in_rows(own[key], given[key]) for key in resized)
        or not _are_last(layers, model, spec, resized)
        or not _give_scores(layers, model, own, spec)
        or not _belong_to(_block(layers, own, odd), [key for key in given if key not in known])
    ):
        return None
    rows = {given[key].shape[0] for key in resized}
    return NewHead(tuple(layers), rows.pop() if len(rows) == 1 else None)


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _differ_in_rows(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dim() == theirs.dim() > 0 and ours.shape[1:] == theirs.shape[1:]


def _are_last(layers: Collection[str], model: nn.Module, spec: ModelSpec, resized: Collection[str]) -> bool:
    """Whether no layer with weights is called after them; those of other heads need not be called at all."""
    order = _in_order(model, spec)
    called = [name for name in order if name in layers]
    others = [name for name in layers if name not in called]
    fitting = {_layer(key) for key in resized}
    return bool(called) and order[-len(called) :] == called and fitting.issuperset(others)


def _in_order(model: nn.Module, spec: ModelSpec) -> list[str]:
    """Names of the modules with weights of their own, in the order of their first call."""
    weighted = {
        name: module
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
    called: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.setdefault(name))
        for name, module in weighted.items()
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(torch.zeros(_IMAGES, *spec.input_shape))
    except Exception:  # what is wrong with the forward is found, and told, elsewhere
        called.clear()
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return list(called or weighted)


def _give_scores(
    layers: Collection[str], model: nn.Module, own: Mapping[str, Tensor], spec: ModelSpec
) -> bool:
    """Whether each has a row for every class; or several in a block of their own end with one that has."""
    rows = [{own[key].shape[:1] for key in own if _layer(key) == name} for name in layers]
    classes = {torch.Size([spec.num_classes])}
    if all(found == classes for found in rows):
        return True
    block = _common(layers)
    inside = [
        module
        for name, module in model.named_modules()
        if name.startswith(f"{block}.") and any(True for _ in module.parameters(recurse=False))
    ]
    return bool(
        block
        and rows[-1] == classes
        and all(_layer(key) in layers for key in own if key.startswith(f"{block}."))
        and all(isinstance(module, _OF_VECTORS) for module in inside)
    )


def _common(layers: Collection[str]) -> str:
    """Name of the innermost module that holds all of them; empty for the network itself."""
    first, *others = ([*name.split(".")[:-1]] for name in layers)
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(first, *others, strict=False))
    return ".".join(parts[0] for parts in same)


def _block(layers: Collection[str], own: Mapping[str, Tensor], odd: Collection[str]) -> str:
    """Name of the module that the whole classifier is, and nothing else."""
    block = _common(layers)
    alone = block and all(key in odd for key in own if key.startswith(f"{block}."))
    return block if alone or len(layers) > 1 else next(iter(layers))


def _belong_to(block: str, unused: Collection[str]) -> bool:
    """Whether tensors that the network has no use for are those of a classifier of another form."""
    return all(bool(block) and key.startswith(f"{block}.") for key in unused)
