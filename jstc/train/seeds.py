"""Random numbers as pure functions of a seed, a purpose and indices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive", "generator", "isolated", "seeded", "set_global"]


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed from `seed` and the purpose and indices in `parts`; the same in every process."""
    text = json.dumps([seed, *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


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
