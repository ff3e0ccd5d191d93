"""Loading a dataset by name. Torch loads with the first one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jstc.data import cifar, digits, folder, parquet, webdataset
from jstc.data.catalogue import check_root
from jstc.data.info import Dataset
from jstc.recipe import InputSettings

if TYPE_CHECKING:
    import torch

__all__ = ["load"]


def load(
    name: str,
    *,
    root: Path | None,
    settings: InputSettings,
    seed: int,
    device: torch.device,
    say: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Load a dataset; its batches arrive on `device`. `say` hears of what takes long.

    `seed` decides which share of the training split is kept for search-validation, and nothing else.
    Raises `UnknownNameError` or `DataError`, as `check` does.
    """
    folder_or_none = check_root(name, root)
    if folder_or_none is None:
        return digits.load(settings, seed=seed, device=device)
    if name in cifar.WHERE:
        return cifar.load(name, folder_or_none, settings, seed=seed, device=device)
    if name == "parquet":
        return parquet.load(folder_or_none, settings, seed=seed, device=device)
    if name == "webdataset":
        return webdataset.load(folder_or_none, settings, seed=seed, device=device, say=say)
    return folder.load(name, folder_or_none, settings, seed=seed, device=device)
