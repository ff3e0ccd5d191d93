"""Starting from a checkpoint: tensors that fit a network, put into it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from jstc.errors import ModelError
from jstc.models import checkpoints, heads
from jstc.models.catalogue import ModelSpec
from jstc.models.checkpoints import reason, some
from jstc.models.placement import COUNTER, place
from jstc.models.reparametrised import left_in_parts

__all__ = ["Fitted", "fit", "load_weights"]

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_OF_TRANSFORMERS = re.compile(r"(\w+\.)?\w+\.(embeddings|embedder|encoder)\.")
_QUANTISED = re.compile(r"\.(zero_point|_packed_params|activation_post_process|weight_fake_quant)(\.|$)")
_OF_TRAINING = re.compile(r"(^|\.)total_(ops|params)$|^(criterion|loss(es|_\w+)?|\w+_loss|metrics?)\.")
"""Names of what counts FLOPs (thop) and of losses and metrics, where they stand among those of a network."""
_BEFORE_QUANTISATION = "save the weights from before the quantisation"


@dataclass(frozen=True)
class Fitted:
    """What was done so that tensors fit: `notes` in words, and the layers that stay new."""

    notes: tuple[str, ...] = ()
    new_head: tuple[str, ...] = ()


def load_weights(
    model: nn.Module, path: Path, *, allow_pickle: bool = False, spec: ModelSpec | None = None
) -> Fitted:
    """Load a checkpoint into `model`: `checkpoints.read` and `fit`. Raises `ModelError` as they do."""
    checkpoint = checkpoints.read(path, allow_pickle=allow_pickle)
    fitted = fit(model, checkpoint.tensors, str(path), spec)
    return Fitted((*checkpoint.notes, *fitted.notes), fitted.new_head)


def fit(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, spec: ModelSpec | None = None
) -> Fitted:
    """Put tensors by name into `model`; `source` is what messages call them, such as a path.

    With a `spec`, of the images and classes that the network is for, a classifier that they lack, or have for
    other classes, stays as it is: new. Whatever stands before the network's names is taken off where
    everything then fits, and what does not belong to the network is left out; both are said. Weights in parts
    are put together (`reparametrised.whole`), sparse tensors are filled up. Raises `ModelError`, and leaves
    the network as it was, when they do not fit, or are something else than the numbers of a network.
    """
    own = model.state_dict()
    placed = place(model, own, tensors, source)
    given = dict(placed.tensors)
    if not getattr(model, "aux_logits", True):  # published weights have them, our networks do not
        given = {k: v for k, v in given.items() if not k.startswith(_AUXILIARY)}
    for key, value in own.items():  # very old checkpoints lack this counter
        if key.endswith(COUNTER):
            given.setdefault(key, value)
    beside = [key for key in given if key not in own and _OF_TRAINING.search(key)]
    given = {key: tensor for key, tensor in given.items() if key not in beside}
    _require(source, {key: _form(tensor) for key, tensor in given.items()})
    head = None if spec is None else heads.new_head(model, given, spec)
    if head is not None:
        given = head.filled_up(given, own)
    problems = _problems(model, own, given)
    if problems:
        raise ModelError(f"weights {source} do not fit the network: {problems}", _advice(own, given))
    filled = {key: _filled(tensor, source) for key, tensor in given.items()}
    _require(source, {key: _values(filled[key], value) for key, value in own.items()})
    _require(source, {key: _unbounded(filled[key], value) for key, value in _finite(model)})
    _require(source, {key: _negative(filled[key]) for key in own if key.endswith("running_var")})
    model.load_state_dict(filled)
    left_out = [f"weights {source}: not of the network, and left out: {some(beside)}"] if beside else []
    notes = (*placed.notes, *left_out, *_converted(filled, own, source))
    if spec is None or head is None:
        return Fitted(notes)
    return Fitted((*notes, head.sentence(source, spec.num_classes)), head.layers)


def _converted(given: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> Iterator[str]:
    found = dict.fromkeys(
        (_type(given[key]), _type(value))
        for key, value in own.items()
        if value.is_floating_point() and given[key].dtype != value.dtype
    )
    for theirs, ours in found:
        yield f"weights {source}: numbers in {theirs} are converted to {ours}"


def _advice(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    unknown = [key for key in given if key not in own]
    if any(_OF_TRANSFORMERS.match(key) for key in unknown):
        return (
            "the names look like those of Hugging Face's transformers; its networks are taken as MODEL, with "
            "the folder that save_pretrained has made: hf:./FOLDER"
        )
    if any(_QUANTISED.search(key) for key in unknown):
        return f"those are of a quantised network: {_BEFORE_QUANTISATION}"
    return left_in_parts(unknown)


def _problems(model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    shapes = [key for key in own if key in given and own[key].shape != given[key].shape]
    missing = [key for key in own if key not in given]
    unknown = [key for key in given if key not in own]
    rows_alone = all(own[key].shape[1:] == given[key].shape[1:] for key in shapes)
    if shapes and rows_alone and not missing and not unknown and _is_classifier(model, shapes):
        layer = shapes[0].rpartition(".")[0]
        theirs, ours = given[shapes[0]].shape[0], own[shapes[0]].shape[0]
        return f"everything fits but the classifier '{layer}': {theirs} classes in the file, {ours} here"
    text = [f"missing {some(missing)}"] if missing else []
    text += [f"unknown {some(unknown)}"] if unknown else []
    text += [f"other shapes {some(f'{k} {_both(given[k], own[k])}' for k in shapes)}"] if shapes else []
    return "; ".join(text)


# The numbers: what a file can hold instead of them, or what they cannot be.


def _require(source: str, found: Mapping[str, str | None]) -> None:
    """Raise `ModelError` when something is wrong with tensors: by name, what."""
    for what in dict.fromkeys(filter(None, found.values())):
        names = [key for key, problem in found.items() if problem == what]
        raise ModelError(f"weights {source}: {some(names)}: {what}")


def _form(tensor: Tensor) -> str | None:
    """Why the tensor has no numbers that a network could take, if so."""
    if tensor.is_meta:
        return "shapes without values (torch's meta device); save the network with its weights"
    if tensor.is_quantized:
        return f"quantised numbers; {_BEFORE_QUANTISATION}"
    if tensor.is_nested:
        return "nested tensors, which no weights are"
    return None


def _filled(tensor: Tensor, source: str) -> Tensor:
    if tensor.layout == torch.strided:
        return tensor
    try:
        return tensor.to_dense()
    except RuntimeError as error:
        raise ModelError(f"weights {source}: a sparse tensor cannot be filled up: {reason(error)}") from None


def _values(theirs: Tensor, ours: Tensor) -> str | None:
    """Why the numbers cannot be those of a parameter or a buffer, if so."""
    if theirs.is_complex() and not ours.is_complex():
        return "complex numbers, where the network has real ones"
    inexact = ours.is_floating_point() or ours.is_complex()
    if inexact and not (theirs.is_floating_point() or theirs.is_complex()):
        return (
            f"whole numbers ({_type(theirs)}), where the network has {_type(ours)}: quantised weights perhaps"
        )
    return "not numbers (nan)" if inexact and bool(theirs.isnan().any()) else None


def _finite(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What cannot be infinite, as a mask in a buffer can: parameters, and statistics."""
    yield from model.named_parameters()
    yield from (
        (key, one) for key, one in model.named_buffers() if key.endswith(("running_mean", "running_var"))
    )


def _negative(variance: Tensor) -> str | None:
    return "negative numbers, which no variances are" if bool((variance < 0).any()) else None


def _unbounded(theirs: Tensor, ours: Tensor) -> str | None:
    # What float64 can say may be too large for float32.
    finite = bool(theirs.to(ours.dtype).isfinite().all())
    return None if finite else f"infinite numbers, as {_type(ours)}"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _both(theirs: Tensor, ours: Tensor) -> str:
    return f"({list(theirs.shape)} in the file, {list(ours.shape)} here)"


def _is_classifier(model: nn.Module, keys: Iterable[str]) -> bool:
    last = [name for name, module in model.named_modules() if dict(module.named_parameters(recurse=False))][
        -1
    ]
    return {key.rpartition(".")[0] for key in keys} == {last}
