"""Networks by name: our CIFAR networks, torchvision's, timm's, and the user's own.

Importing this package does not load torch; building a network, or loading weights into it, does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jstc.models.catalogue import (
    ModelEntry,
    ModelSpec,
    check,
    image_side,
    names,
    part,
    require_classifier,
    runs_user_code,
    says_weights,
    spec,
    task,
    weights_file,
)
from jstc.models.published_input import Published, published
from jstc.models.user_code import Permissions

if TYPE_CHECKING:
    from jstc.models.building import build
    from jstc.models.weights import load_weights

__all__ = [
    "ModelEntry",
    "ModelSpec",
    "Permissions",
    "Published",
    "build",
    "check",
    "image_side",
    "load_weights",
    "names",
    "part",
    "published",
    "require_classifier",
    "runs_user_code",
    "says_weights",
    "spec",
    "task",
    "weights_file",
]

_HOMES = {"build": "jstc.models.building", "load_weights": "jstc.models.weights"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jstc.models' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
