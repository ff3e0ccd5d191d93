"""Weights that a file keeps in parts, made whole: weight norm, spectral norm, and the masks of pruning.

torch keeps such a weight as what it is computed from, in the older form (a hook: `weight_g`, `weight_v`) or
the newer (`parametrizations.weight.original0`). A network that has the plain weight gets what the layer would
compute in evaluation; one that has the newer form gets the parts of the older under their newer names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

__all__ = ["endings", "left_in_parts", "whole"]


def whole(
    tensors: Mapping[str, Tensor], layers: Mapping[str, nn.Module], own: Container[str]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """`tensors` with their parts put together as a network wants them, and what that was: names by form.

    `layers` are the network's modules by name, `own` the names of its tensors; those of `tensors` may have
    anything before them. Parts whose weight is not certain from them stay as they are.
    """
    found, made = dict(tensors), dict[str, list[str]]()
    for (stem, name), parts in _groups(tensors).items():
        form = next((form for form in _FORMS if parts.keys() in (set(form.older), set(form.newer))), None)
        if form is None:
            continue
        newer = [f"{stem}parametrizations.{name}.{ending}" for ending in form.newer]
        if newer and any(ending in own for ending in endings(newer[0])):
            joined = {
                new: tensors[parts[old]] for new, old in zip(newer, form.older, strict=True) if old in parts
            }
        else:
            order = form.older if form.older[0] in parts else form.newer
            weight = _computed(
                form, [tensors[parts[ending]] for ending in order], _is_transposed(stem, layers)
            )
            joined = {} if weight is None else {stem + name: weight}
        if joined:
            found = {key: tensor for key, tensor in found.items() if key not in parts.values()} | joined
            made.setdefault(form.called, []).append(stem + name)
    return found, made


def left_in_parts(names: Iterable[str]) -> str:
    """What to do about names of parts that a network does not have; empty for others."""
    if any(_NEWER.match(name) for name in names):
        call = "torch.nn.utils.parametrize.remove_parametrizations(layer, name)"
        return f"{call}, before saving, makes plain weights"
    if any(match and match["ending"] in ("_orig", "_mask") for match in map(_OLDER.match, names)):
        return (
            "torch.nn.utils.remove_spectral_norm(layer) or prune.remove(layer, name), before saving, makes "
            "plain weights"
        )
    return ""


def endings(name: str) -> Iterator[str]:
    """The name, and what is left of it without its first words: `a.b.c`, `b.c`, `c`."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


_OLDER = re.compile(r"(?P<stem>(?:.*\.)?)(?P<name>\w+?)(?P<ending>_g|_v|_u|_orig|_mask)$")
_NEWER = re.compile(r"(?P<stem>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.(?P<ending>original\d*|\d+\..+)$")


def _groups(tensors: Mapping[str, Tensor]) -> dict[tuple[str, str], dict[str, str]]:
    """Names by their ending, for each stem and name of a weight."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for key in tensors:
        match = _NEWER.match(key) or _OLDER.match(key)
        if match:
            found.setdefault((match["stem"], match["name"]), {})[match["ending"]] = key
    return found


def _is_transposed(stem: str, layers: Mapping[str, nn.Module]) -> bool:
    layer = next((layers[ending] for ending in endings(stem.rstrip(".")) if ending in layers), None)
    return isinstance(layer, _ConvTransposeNd)


# The forms.


@dataclass(frozen=True)
class _Form:
    """A way to keep a weight in parts: how their names end, older and newer, and the weight in evaluation."""

    called: str
    older: tuple[str, ...]
    newer: tuple[str, ...]
    compute: Callable[[Sequence[Tensor], int], Tensor | None]


def _computed(form: _Form, parts: Sequence[Tensor], transposed: bool) -> Tensor | None:
    """The weight, in float32 or wider; None where it is not certain."""
    if any(
        part.is_quantized or part.is_nested or part.is_meta or part.layout != torch.strided for part in parts
    ):
        return None
    if not parts[0].is_floating_point():
        return None
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    with torch.no_grad():
        return form.compute([part.to(wide) for part in parts], 1 if transposed else 0)


def _normed(parts: Sequence[Tensor], _: int) -> Tensor | None:
    """Weight norm, g v / |v|; the shape of g tells what the norm is over."""
    g, v = parts
    if g.dim() == 0:
        return torch._weight_norm(v, g, -1)  # over everything
    for dim, size in enumerate(v.shape):
        if g.shape == torch.Size([size if at == dim else 1 for at in range(v.dim())]):
            return torch._weight_norm(v, g, dim)
    return None


def _spectral(parts: Sequence[Tensor], dim: int) -> Tensor | None:
    """Spectral norm, W / (u W v) with the vectors as they were last estimated; `dim` is of the outputs."""
    weight, u, v = parts
    if weight.dim() < 2 or weight.shape[dim] != len(u) or weight.numel() != len(u) * len(v):
        return None
    return weight / torch.dot(u, torch.mv(weight.movedim(dim, 0).flatten(1), v))


def _masked(parts: Sequence[Tensor], _: int) -> Tensor | None:
    weight, mask = parts
    return weight * mask if weight.shape == mask.shape else None


_FORMS = (
    _Form("weight norm", ("_g", "_v"), ("original0", "original1"), _normed),
    _Form("spectral norm", ("_orig", "_u", "_v"), ("original", "0._u", "0._v"), _spectral),
    _Form("masks of pruning", ("_orig", "_mask"), (), _masked),
)
