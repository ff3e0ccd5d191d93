"""What can be cut in a network, before anything is trained."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc.errors import InputError
from jstc.recipe import ChannelSettings, InputSettings

if TYPE_CHECKING:
    from torch import nn

    from jstc.channels import ChannelMap
    from jstc.models import ModelSpec

__all__ = ["Images", "inspect"]

_IMAGENET_CLASSES = 1000
_CIFAR_CLASSES = 10
_CIFAR_SIDE = 32
_COLOURS = 3


@dataclass(frozen=True)
class Images:
    """What a network is to be built for: a dataset's images and classes, or plain numbers.

    What is not given is CIFAR-10's for networks in CIFAR form and ImageNet's for others.
    """

    dataset: str | None = None
    data: Path | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    image_size: int | None = None
    cifar: bool = False


def inspect(model: str, *, images: Images, settings: ChannelSettings) -> dict[str, Any]:
    """Groups, layers, frozen channels, totals and the smallest reachable budget, as JSON.

    Raises an `InputError` for anything that the user can put right.
    """
    from jstc import models
    from jstc.models import own_code
    from jstc.pipeline import structure

    _refuse_idle(images)
    models.check(model)
    own_code.remember(model)
    spec = _from_dataset(model, images.dataset, images) if images.dataset else _spec(model, images)
    network = models.build(spec, device="meta")
    channels = _channels(spec, network, settings)
    return {
        "model": spec.name,
        "input": list(spec.input_shape),
        "num_classes": _num_classes(spec, network),
        "ignore": list(settings.ignore),
        **structure.document(network, channels, settings),
    }


def _refuse_idle(images: Images) -> None:
    """What would have no effect was meant otherwise."""
    from jstc.data.catalogue import refuse_idle_root

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


def _from_dataset(model: str, name: str, images: Images) -> ModelSpec:
    from jstc import data, models

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
    from jstc import models
    from jstc.models.spec import CIFAR_FORMS

    small = images.cifar or CIFAR_FORMS.get(model, False)
    side = images.image_size or (_CIFAR_SIDE if small else models.image_side(model))
    return models.spec(
        model,
        num_classes=images.num_classes or (_CIFAR_CLASSES if small else _IMAGENET_CLASSES),
        in_channels=images.in_channels or _COLOURS,
        height=side,
        width=side,
        cifar=images.cifar,
    )


def _channels(spec: ModelSpec, network: nn.Module, settings: ChannelSettings) -> ChannelMap:
    import torch

    from jstc import channels, models
    from jstc.errors import ChannelError, ModelError

    example = torch.zeros(1, *spec.input_shape, device="meta")
    try:
        return channels.analyse(network, example, ignore=settings.ignore, part=models.part(spec.name))
    except ChannelError as error:
        raise ModelError(f"model '{spec.name}': {error}") from error


def _num_classes(spec: ModelSpec, network: nn.Module) -> int:
    """A factory of the user's need not ask for the number of classes; its network knows."""
    from jstc.models import runs_user_code
    from jstc.pipeline.outputs import num_scores

    if runs_user_code(spec.name):
        with contextlib.suppress(Exception):  # inspecting a network that is no classifier is fine
            return num_scores(network, spec.input_shape)
    return spec.num_classes
