"""Loading a dataset by name. Torch loads with the first one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jstc.data import cifar, digits, folder, parquet
from jstc.data.catalogue import check
from jstc.data.info import Dataset
from jstc.recipe import InputSettings

if TYPE_CHECKING:
    import torch

__all__ = ["load"]


def load(
    name: str, *, root: Path | None, settings: InputSettings, seed: int, device: torch.device
) -> Dataset:
    """Load a dataset; its batches arrive on `device`.

    `seed` decides which share of the training split is kept for search-validation, and nothing else.
    Raises `UnknownNameError` or `DataError`, as `check` does.
    """
    check(name, root=root, settings=settings)
    if name == "digits":
        return digits.load(settings, seed=seed, device=device)
    assert root is not None
    if name in cifar.WHERE:
        return cifar.load(name, root, settings, seed=seed, device=device)
    if name == "parquet":
        return parquet.load(root, settings, seed=seed, device=device)
    return folder.load(name, root, settings, seed=seed, device=device)
