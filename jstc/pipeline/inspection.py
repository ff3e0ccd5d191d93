"""What can be cut in a network, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc.errors import InputError
from jstc.recipe import ChannelSettings, InputSettings

if TYPE_CHECKING:
    from jstc.channels import ChannelMap
    from jstc.models import ModelSpec

__all__ = ["inspect"]

_IMAGENET_CLASSES = 1000
_IMAGENET_SIDE = 224
_CIFAR_CLASSES = 10
_CIFAR_SIDE = 32


def inspect(
    model: str,
    *,
    dataset: str | None = None,
    data: Path | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    cifar: bool = False,
) -> dict[str, Any]:
    """Groups, frozen channels, totals and the smallest reachable budget, as JSON.

    Classes and image size are those of `dataset` if one is given, otherwise CIFAR-10's for networks in CIFAR
    form and ImageNet's for others. Raises an `InputError` for anything that the user can put right.
    """
    from jstc import models

    _refuse_idle(dataset, data=data, num_classes=num_classes)
    models.check(model)
    spec = _from_dataset(model, dataset, data, image_size, cifar) if dataset else None
    spec = spec or _spec(model, num_classes, image_size, cifar)
    return _document(spec, _channels(spec))


def _refuse_idle(dataset: str | None, *, data: Path | None, num_classes: int | None) -> None:
    """What would have no effect was meant otherwise."""
    if dataset is None and data is not None:
        raise InputError("--data is the folder of a dataset: give --dataset NAME as well")
    if dataset is not None and num_classes is not None:
        raise InputError(f"give either --num-classes or --dataset, whose classes are taken ('{dataset}')")


def _from_dataset(model: str, name: str, root: Path | None, side: int | None, cifar: bool) -> ModelSpec:
    from jstc import data, models

    info = data.check(name, root=root, settings=InputSettings(image_size=side))
    return models.spec(
        model,
        num_classes=info.num_classes,
        in_channels=info.channels,
        height=info.height,
        width=info.width,
        cifar=cifar,
    )


def _spec(model: str, num_classes: int | None, image_size: int | None, cifar: bool) -> ModelSpec:
    from jstc import models
    from jstc.models.spec import CIFAR_FORMS

    small = cifar or CIFAR_FORMS.get(model, False)
    side = image_size or (_CIFAR_SIDE if small else _IMAGENET_SIDE)
    classes = num_classes or (_CIFAR_CLASSES if small else _IMAGENET_CLASSES)
    return models.spec(model, num_classes=classes, in_channels=3, height=side, width=side, cifar=cifar)


def _channels(spec: ModelSpec) -> ChannelMap:
    import torch

    from jstc import channels, models
    from jstc.errors import ChannelError, ModelError

    skeleton = models.build(spec, device="meta")
    try:
        return channels.analyse(skeleton, torch.zeros(1, *spec.input_shape, device="meta"))
    except ChannelError as error:
        raise ModelError(f"model '{spec.name}': {error}") from error


def _document(spec: ModelSpec, channels: ChannelMap) -> dict[str, Any]:
    cost, least = channels.cost(), _smallest(channels)
    groups = [
        {
            "name": group.name,
            "width": group.width,
            "flops_share": channels.flops_share[group.name],
            "params": cost.params - _without(channels, index),
            "layers": list(group.layers),
        }
        for index, group in enumerate(channels.groups)
    ]
    frozen = [{"layer": f.layer, "channels": f.channels, "reason": f.reason} for f in channels.frozen]
    return {
        "model": spec.name,
        "input": list(spec.input_shape),
        "num_classes": spec.num_classes,
        "flops": cost.flops,
        "params": cost.params,
        "groups": groups,
        "frozen": frozen,
        "unknown_operations": dict(channels.unknown_operations),
        "flops_share_cuttable": channels.coverage,
        "smallest_flops_share": least[0] / cost.flops if cost.flops else 1.0,
        "smallest_params_share": least[1] / cost.params if cost.params else 1.0,
    }


def _without(channels: ChannelMap, index: int) -> int:
    """Parameters of the network if the group had no channels at all."""
    counts = channels.full_counts.copy()
    counts[index] = 0
    return channels.cost_of_counts(counts).params


def _smallest(channels: ChannelMap) -> tuple[int, int]:
    from jstc.channels.budget import Limits, smallest

    default = ChannelSettings()
    limits = Limits.of(
        channels.groups,
        round_to=default.round_to,
        min_share=default.min_share,
        min_width=default.min_width,
    )
    cost = smallest(channels, limits)
    return cost.flops, cost.params
