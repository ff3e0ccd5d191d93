"""In the making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jstc.data.info import DataInfo, Dataset
from jstc.recipe import InputSettings

WHERE: Any = {"cifar10": "", "cifar100": ""}


def check(name: Any, root: Any, settings: Any = None) -> DataInfo:
    raise NotImplementedError


def load(*args: Any, **kwargs: Any) -> Dataset:
    raise NotImplementedError
