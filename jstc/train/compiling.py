"""Training through torch.compile, where a compiler works."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jstc.errors import InputError

__all__ = ["Compilations", "compiled", "require_compiler"]

_KEPT = 8
"""So many compilations of one forward torch keeps by default; after that it calls what is not compiled."""


def compiled(network: nn.Module) -> Any:
    """`network`, compiled at its first call for exactly the shapes that it meets; the parameters are shared.

    Training batches all have one size, so that is one compilation, or two where accumulation divides them
    unevenly.
    """
    return torch.compile(network, dynamic=False)


class Compilations:
    """Compiled networks of one class; those of the same widths share what was made."""

    def __init__(self) -> None:
        self._widths: set[tuple[int, ...]] = set()

    def of(self, network: nn.Module, widths: tuple[int, ...]) -> Any:
        """`network`, which has these widths, compiled; earlier ones may have to be compiled again."""
        if widths not in self._widths and len(self._widths) == _KEPT:
            torch.compiler.reset()
            self._widths.clear()
        self._widths.add(widths)
        return compiled(network)


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
