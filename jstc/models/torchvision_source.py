"""Networks from torchvision, built without weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from jstc.errors import ModelError
from jstc.models.catalogue import task
from jstc.models.spec import ModelSpec
from jstc.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from torch import nn

__all__ = ["constructor"]

# Auxiliary classifiers serve training schemes that are not ours. And without a word on init_weights
# these two warn, and spend a minute on truncated normal numbers.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}


def constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    """What builds the network. Raises `ModelError` for images that are not of three channels."""
    if spec.in_channels != 3:
        raise ModelError(
            f"model '{spec.name}' from torchvision reads images of 3 channels, not {spec.in_channels}"
        )
    models = import_torchvision("torchvision.models")
    options = _OPTIONS.get(spec.name, {})
    if task(spec.name) != "classification":
        options = {"weights_backbone": None}  # else they download those of ImageNet
    return partial(models.get_model, spec.name, weights=None, num_classes=spec.num_classes, **options)
