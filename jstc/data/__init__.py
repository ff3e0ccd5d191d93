"""Datasets by name, as batches on the device.

Importing this package does not load torch; loading a dataset does.
"""

from __future__ import annotations

from jstc.data.base import WHOLE, DataInfo, Dataset, Part, Split
from jstc.data.datasets import CatalogueEntry, catalogue, check, load

__all__ = ["WHOLE", "CatalogueEntry", "DataInfo", "Dataset", "Part", "Split", "catalogue", "check", "load"]
