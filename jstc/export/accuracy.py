"""Top-1 accuracy of an ONNX file on a whole split, through onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from jstc import ort
from jstc.errors import InputError
from jstc.ort import Provider

__all__ = ["accuracy", "check_fits"]

_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def accuracy(
    path: Path,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
) -> float:
    """Fraction of all images in `batches` (images [N, C, H, W], labels [N]) whose top-1 class is right.

    Raises `InputError` when the file is no classifier for such images, or has not `num_classes` classes.
    """
    session = ort.open_session(path, provider=provider, threads=threads)
    name = ort.signature(session, path).input_name
    right = total = 0
    for images, labels in batches:
        if not total:
            _require_fit(session, path, tuple(images.shape[1:]), num_classes)
        logits = session.run(None, {name: _as_numpy(session, images)})[0]
        right += int((np.argmax(logits, axis=1) == labels.cpu().numpy()).sum())
        total += len(labels)
    if not total:
        raise InputError(f"{path.name}: there are no images to compute the accuracy on")
    return right / total


def check_fits(path: Path, *, shape: tuple[int, int, int], num_classes: int) -> None:
    """Check that the file classifies images of `shape` [C, H, W] into `num_classes` classes.

    Raises `InputError` that says what differs; cheap, so that it can be asked before data is loaded.
    """
    _require_fit(ort.open_session(path), path, shape, num_classes)


def _require_fit(session: object, path: Path, shape: tuple[int, ...], num_classes: int | None) -> None:
    found = ort.signature(session, path)
    if found.input_type not in _FLOAT_TYPES:
        raise InputError(f"{path}: takes {found.input_type} input; expected float images")
    batch, *expected = found.input_shape
    if batch is not None:
        raise InputError(f"{path}: has a fixed batch size of {batch}; export it with a dynamic one")
    if any(want is not None and want != have for want, have in zip(expected, shape, strict=True)):
        raise InputError(f"{path}: takes images of {_size(expected)}, but the data set has {_size(shape)}")
    if None not in (num_classes, found.num_classes) and found.num_classes != num_classes:
        raise InputError(
            f"{path}: gives {found.num_classes} classes, but the data set has {num_classes}; "
            "evaluate it on the data set that it was trained on"
        )


def _size(shape: Iterable[int | None]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)


def _as_numpy(session: object, images: Tensor) -> npt.NDArray[np.floating]:
    dtype = _FLOAT_TYPES[session.get_inputs()[0].type]  # type: ignore[attr-defined]
    return images.detach().cpu().contiguous().numpy().astype(dtype, copy=False)
