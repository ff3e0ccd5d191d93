"""Training through torch.compile, where a compiler works."""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo.config as dynamo
from torch import nn

from jstc.errors import InputError

__all__ = ["compiled", "require_compiler"]

_KEPT = 256
"""Compilations of one forward that torch is to keep: by default 8, after which it calls what is not compiled.
A search may have as many widths as rounds, and its finetune calls the same forward."""


def compiled(network: nn.Module) -> Any:
    """`network`, compiled at its first call for exactly the shapes that it meets; the parameters are shared.

    Training batches all have one size, so that is one compilation, or two where accumulation divides them
    unevenly.
    """
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(dynamo, name, max(getattr(dynamo, name), _KEPT))
    return torch.compile(network, dynamic=False)


def require_compiler(where: torch.device, *, key: str) -> None:
    """Compile something small on `where`, for the recipe key `key`.

    Raises `InputError` when that does not work here.
    """
    try:
        torch.compile(_double, dynamic=False)(torch.ones(8, device=where))
    except Exception as error:  # whatever a missing compiler, a missing Triton or an unknown Python raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = lines[0] if lines else type(error).__name__
        needed = "a C++ compiler" if where.type == "cpu" else "Triton and a C compiler"
        raise InputError(
            f"{key}: torch.compile does not work here ({told}); on {where.type} it "
            f"needs {needed}: install that, or leave the key out"
        ) from None


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2
