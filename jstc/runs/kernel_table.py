"""The self-test of the kernels on networks of the catalogue, for `jstc doctor`."""

from __future__ import annotations

import time
from typing import Any, TypedDict

import torch
from torch import nn

from jstc import models
from jstc.train import device, kernels

__all__ = ["Fault", "Row", "Table", "kernel_table"]

_NETWORKS = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")
"""Networks of plain, of depthwise and of grouped convolutions, of many widths."""
_DILATED = "dilated convolutions"
"""None of the catalogue has them, and they are wrong on some processors."""
_SIZES = (8, 32)
_BATCH, _CLASSES = 64, 10


class Fault(TypedDict):
    """A kind of layer that is computed wrong: in what, and the form in which it is computed instead."""

    layer: str
    wrong: list[str]
    form: str


class Row(TypedDict):
    """A network on images of a size in a number format: its kinds of layers, and the wrong ones."""

    model: str
    image_size: int
    dtype: str
    layers: int
    wrong: list[Fault]


class Table(TypedDict):
    """The networks, and how long it took: moments where the verdicts were on file."""

    seconds: float
    rows: list[Row]


def kernel_table() -> Table:
    """Verdicts on the layers of some networks in the precisions that are used here, in channels-last layout.

    They are those of a training on the CPU, with the threads that torch takes by itself, and are kept for it.
    """
    where, since = torch.device("cpu"), time.perf_counter()
    formats = [None, *([torch.bfloat16] if device.has_fast_bfloat16(where) else [])]
    rows = [
        _row(name, size, dtype) for name in (*_NETWORKS, _DILATED) for size in _SIZES for dtype in formats
    ]
    return {"seconds": round(time.perf_counter() - since, 1), "rows": rows}


def _network(name: str, size: int) -> nn.Module:
    if name != _DILATED:
        spec = models.spec(name, num_classes=_CLASSES, in_channels=3, height=size, width=size)
        return models.build(spec)
    layers, inside = [], 3
    for width, groups in ((64, 1), (40, 1), (40, 40), (24, 1), (24, 4), (24, 24)):
        layers += [
            nn.Conv2d(inside, width, 1),
            nn.Conv2d(width, width, 3, dilation=2, padding=2, groups=groups),
        ]
        inside = width
    return nn.Sequential(*layers)


def _row(name: str, size: int, dtype: torch.dtype | None) -> Row:
    network: Any = _network(name, size)
    network.to(memory_format=torch.channels_last)
    images = torch.zeros(2, 3, size, size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), device.autocast(images.device, dtype):
        layers, faults = kernels.tried(network, images, batch=_BATCH)
    wrong: list[Fault] = [
        {"layer": str(one.call), "wrong": sorted(one.verdict.wrong), "form": str(one.verdict.form)}
        for one in faults
    ]
    shown = str(dtype or torch.float32).removeprefix("torch.")
    return {"model": name, "image_size": size, "dtype": shown, "layers": layers, "wrong": wrong}
