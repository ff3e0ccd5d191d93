"""Datasets by name, as batches on the device.

Importing this package does not load torch; loading a dataset does.
"""

from __future__ import annotations

from jstc.data.base import WHOLE, DataInfo, Dataset, Epoch, Part, Split
from jstc.data.datasets import CatalogueEntry, catalogue, check, load

__all__ = [
    "WHOLE",
    "CatalogueEntry",
    "DataInfo",
    "Dataset",
    "Epoch",
    "Part",
    "Split",
    "catalogue",
    "check",
    "load",
]
