"""What can be cut in a network, before anything is trained."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from jstc import data, models
from jstc.channels import ChannelMap, analyse
from jstc.channels.budget import WidthBounds, smallest
from jstc.channels.operations import Placed
from jstc.data.datasets import refuse_idle_root
from jstc.errors import ChannelError, InputError, ModelError
from jstc.models import ModelSpec, runs_user_code, user_code
from jstc.models.catalogue import CIFAR_FORMS
from jstc.ort import machine
from jstc.recipe.schema import ChannelSettings, InputSettings
from jstc.runs.manifest import versions
from jstc.runs.network_check import num_scores
from jstc.runs.network_trial import require_registered
from jstc.train import device

__all__ = [
    "FrozenEntry",
    "GroupEntry",
    "Images",
    "LayerEntry",
    "Structure",
    "document",
    "facts",
    "inspect",
]

_IMAGENET_CLASSES = 1000
_CIFAR_CLASSES = 10
_CIFAR_SIDE = 32
_COLOURS = 3


@dataclass(frozen=True)
class Images:
    """What a network is to be built for: a dataset's images and classes, or plain numbers.

    What is not given is CIFAR-10's for networks in CIFAR form and ImageNet's for others. `shape` is that of
    one input of any rank, without the batch, of a network of the user's own or a part.
    """

    dataset: str | None = None
    data: Path | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    image_size: int | None = None
    cifar: bool = False
    shape: tuple[int, ...] | None = None


class GroupEntry(TypedDict):
    """A group of channels; `least` and `step` bound its width, `params` are those it takes part in."""

    name: str
    width: int
    unit: int
    least: int
    step: int
    flops_share: float
    params: int
    layers: list[str]
    not_like_masking: str | None


class FrozenEntry(TypedDict):
    """Channels that stay, on which side of which layer, and why."""

    layer: str
    kind: str
    side: str
    channels: int
    reason: str


class LayerEntry(TypedDict):
    """A module with parameters; `makes` and `reads` are names of groups, `made` the channels of each."""

    name: str
    kind: str
    rank: int
    width: int
    makes: list[str]
    made: list[int]
    reads: list[str]


class Structure(TypedDict):
    """The channel structure of a network, with its totals and the smallest that its groups allow."""

    flops: int
    params: int
    groups: list[GroupEntry]
    frozen: list[FrozenEntry]
    layers: list[LayerEntry]
    unknown_operations: dict[str, int]
    flops_share_cuttable: float
    params_share_cuttable: float
    smallest_flops: int
    smallest_params: int
    smallest_flops_share: float
    smallest_params_share: float


def inspect(
    model: str, *, images: Images, settings: ChannelSettings, part: str | None = None
) -> dict[str, Any]:
    """Groups, layers, frozen channels, totals and the smallest reachable budget, as JSON.

    With the name of a `part` of the network that alone is analysed, on an input of its own; of a detector it
    is the backbone. Raises an `InputError` for anything that the user can put right.
    """
    _refuse_idle(images)
    _refuse_shape(model, images, part)
    models.check(model)
    user_code.trust(model)
    whole = images if part is None else dataclasses.replace(images, shape=None)  # the shape is the part's
    spec = _from_dataset(model, images.dataset, images) if images.dataset else _spec(model, whole)
    network = models.build(spec, device="meta")
    part = part or models.part(spec.name)
    shape = images.shape or spec.input_shape
    channels = _channels(spec, network, settings, shape, part)
    return {
        "model": spec.name,
        "input": list(shape),
        "part": part,
        "num_classes": _num_classes(spec, network, shape) if part is None else spec.num_classes,
        "ignore": list(settings.ignore),
        **document(network, channels, settings),
    }


def _refuse_idle(images: Images) -> None:
    """What would have no effect was meant otherwise."""
    if images.dataset is None:
        if images.data is not None:
            raise InputError("--data is the folder of a dataset: give --dataset NAME as well")
        return
    for flag, value, what in (
        ("--num-classes", images.num_classes, "classes"),
        ("--in-channels", images.in_channels, "channels"),
    ):
        if value is not None:
            raise InputError(f"give either {flag} or --dataset, whose {what} are taken ('{images.dataset}')")
    refuse_idle_root(images.dataset, images.data)


def _refuse_shape(model: str, images: Images, part: str | None) -> None:
    """A shape is given alone, to a part or to a network that need not read images. Raises `InputError`."""
    if images.shape is None:
        return
    if part is None and not runs_user_code(model):
        raise InputError(f"--shape: model '{model}' reads images; say their size with --image-size")
    for flag, value in (
        ("--dataset", images.dataset),
        ("--in-channels", images.in_channels),
        ("--image-size", images.image_size),
    ):
        if value is not None:
            raise InputError(f"give either --shape or {flag}: both say what the network is given")


def _from_dataset(model: str, name: str, images: Images) -> ModelSpec:
    info = data.check(name, root=images.data, settings=InputSettings(image_size=images.image_size))
    return models.spec(
        model,
        num_classes=info.num_classes,
        in_channels=info.channels,
        height=info.height,
        width=info.width,
        cifar=images.cifar,
    )


def _spec(model: str, images: Images) -> ModelSpec:
    small = images.cifar or CIFAR_FORMS.get(model, False)
    side = images.image_size or (_CIFAR_SIDE if small else models.image_side(model))
    return models.spec(
        model,
        num_classes=images.num_classes or (_CIFAR_CLASSES if small else _IMAGENET_CLASSES),
        in_channels=images.in_channels or (_COLOURS if images.shape is None else images.shape[0]),
        height=side,
        width=side,
        cifar=images.cifar,
    )


def _channels(
    spec: ModelSpec, network: nn.Module, settings: ChannelSettings, shape: tuple[int, ...], part: str | None
) -> ChannelMap:
    example = torch.zeros(1, *shape, device="meta")
    try:
        return analyse(network, example, ignore=settings.ignore, part=part)
    except ChannelError as error:
        try:
            if runs_user_code(spec.name):
                require_registered(models.build(spec), shape)
        except ModelError as reason:
            raise ModelError(f"model '{spec.name}': {reason.problem}", reason.advice) from error
        raise ModelError(f"model '{spec.name}': {error}") from error


def _num_classes(spec: ModelSpec, network: nn.Module, shape: tuple[int, ...]) -> int:
    """A factory of the user's need not ask for the number of classes; its network knows."""
    if runs_user_code(spec.name):
        with contextlib.suppress(Exception):  # inspecting a network that is no classifier is fine
            return num_scores(network, shape)
    return spec.num_classes


# The channel structure of a network as JSON: groups, layers, what is frozen, and what can be reached.


def document(network: nn.Module, channels: ChannelMap, settings: ChannelSettings) -> Structure:
    """What `channels` knows of `network`; `settings` say how far its groups may be cut.

    `flops` and `params` of a group are those that it takes part in: an operation between two groups belongs
    to both. Raises `RecipeError` for settings of groups that are not there.
    """
    bounds = WidthBounds.from_settings(channels.groups, settings)
    cost, least = channels.cost(), smallest(channels, bounds)
    return {
        "flops": cost.flops,
        "params": cost.params,
        "groups": _groups(channels, bounds.least.tolist(), bounds.step.tolist()),
        "frozen": _frozen(network, channels),
        "layers": _layers(network, channels),
        "unknown_operations": dict(channels.unknown_operations),
        "flops_share_cuttable": channels.coverage,
        "params_share_cuttable": channels.params_coverage,
        "smallest_flops": least.flops,
        "smallest_params": least.params,
        "smallest_flops_share": least.flops / cost.flops if cost.flops else 1.0,
        "smallest_params_share": least.params / cost.params if cost.params else 1.0,
    }


def _groups(channels: ChannelMap, least: list[int], steps: list[int]) -> list[GroupEntry]:
    whole, units = channels.cost().params, _units(channels)
    return [
        {
            "name": group.name,
            "width": group.width,
            "unit": units[group.name],
            "least": least[index],
            "step": steps[index],
            "flops_share": channels.flops_share[group.name],
            "params": whole - _without(channels, index),
            "layers": list(group.layers),
            "not_like_masking": channels.inexact.get(group.name),
        }
        for index, group in enumerate(channels.groups)
    ]


def _units(channels: ChannelMap) -> dict[str, int]:
    """Positions that one channel of a group takes where it takes fewest: more than one for a head."""
    found: dict[str, int] = {}
    for placed in channels.layout:
        for names, sizes in zip(placed.groups, placed.sizes, strict=True):
            for name, size in zip(names, sizes, strict=True):
                unit = size // channels.widths[name]
                found[name] = min(unit, found.get(name, unit))
    return found


def _without(channels: ChannelMap, index: int) -> int:
    """Parameters of the network if the group had no channels at all."""
    counts = channels.full_counts.copy()
    counts[index] = 0
    return channels.cost_of_counts(counts).params


def _frozen(network: nn.Module, channels: ChannelMap) -> list[FrozenEntry]:
    outs = {placed.layer: _out_dim(network, placed) for placed in channels.layout if len(placed.shape) > 1}
    return [
        {
            "layer": frozen.layer,
            "kind": _kind(network, frozen.layer),
            "side": "out" if frozen.dim == outs.get(frozen.layer, 0) else "in",
            "channels": frozen.channels,
            "reason": frozen.reason,
        }
        for frozen in channels.frozen
    ]


def _layers(network: nn.Module, channels: ChannelMap) -> list[LayerEntry]:
    """Modules with parameters, in the order of the forward.

    `makes` and `reads` are names of groups; `made` says how many of the layer's channels each group has.
    """
    found: dict[str, LayerEntry] = {}
    for placed in channels.layout:
        out = _out_dim(network, placed)
        new: LayerEntry = {
            "name": placed.layer,
            "kind": _kind(network, placed.layer),
            "rank": 0,
            "width": 0,
            "makes": [],
            "made": [],
            "reads": [],
        }
        layer = found.setdefault(placed.layer, new)
        if len(placed.shape) > layer["rank"]:
            layer["rank"], layer["width"] = len(placed.shape), placed.shape[out]
        for dim, (names, sizes) in enumerate(zip(placed.groups, placed.sizes, strict=True)):
            side = layer["makes" if dim == out else "reads"]
            for name, size in zip(names, sizes, strict=True):
                if name not in side:
                    side.append(name)
                    layer["made"] += [size] if dim == out else []
    return list(found.values())


def _out_dim(network: nn.Module, placed: Placed) -> int:
    """The dimension along which a parameter makes channels, by the conventions of torch's layers."""
    kind = _kind(network, placed.layer)
    if "ConvTranspose" in kind:
        return min(1, len(placed.shape) - 1)
    words = placed.parameter.rpartition(".")[2].split("_")
    lone = not {words[0], words[-1]} & {"weight", "bias"}  # such as a class token or a table
    return len(placed.shape) - 1 if lone or "Embedding" in kind else 0


def _kind(network: nn.Module, layer: str) -> str:
    try:
        return type(network.get_submodule(layer)).__name__
    except AttributeError:
        return "Parameter"


# What this machine offers, for `jstc doctor`.


def facts() -> dict[str, Any]:
    """Versions, processor, GPUs, number formats, onnxruntime's working providers, free disk, as JSON."""
    known = machine.environment()
    chosen = device.device("auto")
    known["packages"] = versions()
    known["training_device"] = str(chosen)
    known["torch_cuda"] = torch.cuda.is_available()
    known["torch_threads"] = torch.get_num_threads()
    known["fast_bfloat16"] = device.has_fast_bfloat16(chosen)
    known["free_disk_gb"] = round(shutil.disk_usage(Path.cwd()).free / 1e9, 1)
    return known
