"""Networks from timm, built without weights: nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from jstc.errors import ModelError, UnknownNameError
from jstc.models.spec import ModelSpec
from jstc.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from torch import nn

__all__ = ["constructor"]


def constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    """What builds the network. Raises `ModelError` without timm, `UnknownNameError` for unknown names."""
    timm = _timm(spec.name)
    name = spec.name.removeprefix("timm:")
    if not timm.is_model(name):
        known = [f"timm:{n}" for n in timm.list_models()]
        raise UnknownNameError("model", spec.name, known, "timm.list_models() lists all")
    return partial(
        timm.create_model,
        name,
        pretrained=False,
        num_classes=spec.num_classes,
        in_chans=spec.in_channels,
    )


def _timm(name: str) -> Any:
    import_torchvision()  # timm imports it; ours is the quicker way
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(f"model '{name}' needs timm ({error}): pip install 'jstc[timm]'") from error
