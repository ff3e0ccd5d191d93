"""Importing torchvision without loading torch's compiler.

`torchvision.ops.roi_align` does `from torch._dynamo.utils import is_compile_supported` when it is imported.
That one line loads 850 modules of `torch._dynamo`: 1.1 to 1.4 seconds of processor, beside 0.15 for all of
torchvision, for a function that only RoI align on a GPU ever calls. So while torchvision is being imported,
and only then, a stand-in module answers to that name; its function forwards to the real one when called.

It is worth it for commands that do not train (`jstc inspect`, wrong input); who trains loads the compiler
with the first optimiser. To be deleted as soon as torchvision imports that function where it calls it: a test
holds that nothing depends on the stand-in.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["import_torchvision"]

_NAME = "torch._dynamo.utils"
_LOCK = threading.Lock()


def import_torchvision(name: str = "torchvision") -> Any:
    """The torchvision module `name` (such as `torchvision.models`), imported quickly where possible."""
    if "torchvision" in sys.modules or "torch._dynamo" in sys.modules:
        return importlib.import_module(name)
    importlib.import_module("torch")  # before the stand-in: torch's own import must not meet it
    try:
        with _LOCK, _stand_in():
            importlib.import_module("torchvision")
    except Exception:
        # Another version of torchvision may want more of that module: forget the attempt, import plainly.
        _forget("torchvision")
    return importlib.import_module(name)


@contextmanager
def _stand_in() -> Iterator[None]:
    if "torch._dynamo" in sys.modules or _NAME in sys.modules:
        yield
        return
    module = ModuleType(_NAME, "Stands in for the real module while torchvision is imported.")
    module.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[_NAME] = module
    try:
        yield
    finally:
        if sys.modules.get(_NAME) is module:
            del sys.modules[_NAME]


def _is_compile_supported(device_type: Any) -> Any:
    return importlib.import_module(_NAME).is_compile_supported(device_type)


def _forget(package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]
