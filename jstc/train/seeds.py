"""torch's random numbers as pure functions of a seed, a purpose and indices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from jstc.core.seeds import derive

__all__ = ["apart", "generator", "isolated", "seeded", "set_global"]


def generator(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose, seeded by `derive`."""
    source = torch.Generator(device=device)
    source.manual_seed(derive(seed, *parts))
    return source


@contextmanager
def isolated() -> Iterator[None]:
    """Give back torch's global random state, of all devices in use, as it was before the block."""
    devices = torch.cuda.device_count() if _cuda_in_use() else 0
    with torch.random.fork_rng(devices=range(devices)):
        yield


def set_global(seed: int, *parts: str | int) -> None:
    """Set torch's global random state, of all devices in use, by `derive`."""
    value = derive(seed, *parts)
    # Not torch.manual_seed: it formats a stack trace each time while CUDA sleeps, a quarter of a
    # millisecond in every training step.
    torch.default_generator.manual_seed(value)
    if _cuda_in_use():
        torch.cuda.manual_seed_all(value)


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextmanager
def seeded(seed: int, *parts: str | int) -> Iterator[None]:
    """Set torch's global random state by `derive` for the block, and restore it afterwards.

    Dropout and stochastic depth draw from the global state and take no generator.
    """
    with isolated():
        set_global(seed, *parts)
        yield


@contextmanager
def apart(seed: int, *parts: str | int) -> Iterator[None]:
    """`seeded`, with the global states of Python and numpy as well, which a user's code may use."""
    value, python, array = derive(seed, *parts), random.getstate(), np.random.get_state()
    try:
        random.seed(value)
        np.random.seed(value % 2**32)
        with seeded(seed, *parts):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
