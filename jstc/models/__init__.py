"""Networks by name: our CIFAR networks, torchvision's, timm's, and the user's own.

Importing this package does not load torch; building a network does.
"""

from __future__ import annotations

from jstc.models.building import build
from jstc.models.catalogue import (
    ModelEntry,
    check,
    image_side,
    names,
    part,
    require_classifier,
    runs_user_code,
    task,
)
from jstc.models.spec import ModelSpec, spec
from jstc.models.user_code import Permissions
from jstc.models.weights import load_weights

__all__ = [
    "ModelEntry",
    "ModelSpec",
    "Permissions",
    "build",
    "check",
    "image_side",
    "load_weights",
    "names",
    "part",
    "require_classifier",
    "runs_user_code",
    "spec",
    "task",
]
