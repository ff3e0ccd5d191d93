"""The names of torchvision's networks, read from its source without importing it."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Literal

from jstc.torchvision_import import import_torchvision

__all__ = ["Task", "torchvision_names"]

Task = Literal["classification", "segmentation", "detection"]

_PACKAGES: dict[Task, str] = {
    "classification": "models",
    "segmentation": "models.segmentation",
    "detection": "models.detection",
}


@cache
def torchvision_names(task: Task = "classification") -> tuple[str, ...]:
    """What `torchvision.models.list_models` returns for the package of a task.

    Importing torchvision to ask it takes seconds; its sources say the same in a fraction of one. They
    are asked only when that fails.
    """
    try:
        found = _from_source(_PACKAGES[task])
    except (OSError, UnicodeError, ImportError):
        found = set()
    if not found:
        models = import_torchvision("torchvision.models")
        found = set(models.list_models(module=import_torchvision(f"torchvision.{_PACKAGES[task]}")))
    return tuple(sorted(found))


def _from_source(package: str) -> set[str]:
    torchvision = importlib.util.find_spec("torchvision")
    folders = list(torchvision.submodule_search_locations or ()) if torchvision else []
    found: set[str] = set()
    for folder in folders:
        for path in Path(folder, *package.split(".")).glob("*.py"):
            # Not by `ast`: parsing all of them takes 0.2 s, and a test holds the outcome to `list_models`.
            found |= {given or name for given, name in _REGISTERED.findall(path.read_text(encoding="utf-8"))}
    return found


# The decorator, with or without a name of its own, and the function below it, other decorators between.
_REGISTERED = re.compile(
    r"""^@register_model\((?:name=)?["']?([^"')]*)["']?\)\n(?:(?!def ).*\n)*?def (\w+)\(""", re.MULTILINE
)
