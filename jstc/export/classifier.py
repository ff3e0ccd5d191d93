"""Any image classifier in ONNX at work: how it takes images, how it answers. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jstc.core.preprocessing import Preprocessing
from jstc.errors import InputError, StageError
from jstc.export.card import decode_metadata
from jstc.ort import sessions
from jstc.ort.sessions import Provider

__all__ = ["Answers", "Classifier", "Normalisation", "open_classifier", "require_fit"]

Floats = npt.NDArray[np.float32]
_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
_SCORES = ("tensor(float)", "tensor(float16)")
_CLASSES = ("tensor(int64)", "tensor(int32)")
_COLOURS = (1, 3, 4)
_BEST = 5


@dataclass(frozen=True)
class Normalisation:
    """A pixel x in [0, 1] of channel c becomes (x - mean[c]) / std[c]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, images: Floats) -> npt.NDArray[np.uint8]:
        """The bytes [N, C, H, W] of normalised images, rounded."""
        mean, std = self._scaled()
        whole: npt.NDArray[np.uint8] = np.clip(np.rint(images * std + mean), 0, 255).astype(np.uint8)
        return whole

    def apply(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Normalised images of bytes [N, C, H, W]."""
        mean, std = self._scaled()
        normalised: Floats = (pixels.astype(np.float32) - mean) / std
        return normalised

    def instead_of(self, other: Normalisation, images: Floats) -> Floats:
        """Images that `other` has normalised, normalised by this one."""
        mean, std = self._scaled()
        old_mean, old_std = other._scaled()
        shift = (old_mean - mean).astype(np.float32)
        return images if self == other else ((images * old_std + shift) / std).astype(np.float32)

    def _scaled(self) -> tuple[Floats, Floats]:
        both = np.array([self.mean, self.std], np.float32) * np.float32(255)
        return both[0].reshape(1, -1, 1, 1), both[1].reshape(1, -1, 1, 1)


@dataclass(frozen=True)
class Answers:
    """The most likely classes [N, k] of N images, best first; `defined` [N]: were their scores numbers?"""

    classes: npt.NDArray[np.int64]
    defined: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Classifier:
    """An open file. Sizes are None where the file takes any; `shape` is [C, H, W].

    `dtype` uint8 stands for pixels, anything else for normalised images. With `gives_classes` the output has
    class numbers, best first, and no scores. `outputs` is how many the file has.
    """

    path: Path
    session: Any
    metadata: dict[str, Any]
    input_name: str
    dtype: type[np.generic]
    channels_last: bool
    batch: int | None
    shape: tuple[int | None, int | None, int | None]
    output_name: str
    outputs: int
    gives_classes: bool
    num_classes: int | None

    @property
    def takes_pixels(self) -> bool:
        """Whether its images are bytes."""
        return self.dtype is np.uint8

    @property
    def normalisation(self) -> Normalisation | None:
        """What the file says about its own normalisation, if it does."""
        mean, std = (_numbers(self.metadata.get(key)) for key in ("mean", "std"))
        return Normalisation(mean, std) if mean and std and len(mean) == len(std) else None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What the file says about how images are prepared for it, if it says the whole of it."""
        return Preprocessing.from_metadata(self.metadata)

    @property
    def prepares(self) -> bool:
        """Whether it takes pixels of any height and width, and so prepares its images itself."""
        return self.takes_pixels and self.shape[1] is None and self.shape[2] is None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of its classes, if the file has them."""
        return _labels(self.metadata)

    def answer(self, images: npt.NDArray[Any]) -> Answers:
        """The answers to images [N, C, H, W] that are bytes or normalised, as the file takes them.

        Where the batch size is fixed, the last batch is filled up, and what fills it is not answered.
        Raises `StageError` when onnxruntime cannot run them.
        """
        found = [self._run(chunk) for chunk in _chunks(images, self.batch)]
        return Answers(*(np.concatenate(parts)[: len(images)] for parts in zip(*found, strict=True)))

    def _run(self, images: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        feed = np.ascontiguousarray(images.transpose(0, 2, 3, 1) if self.channels_last else images)
        try:
            found = self.session.run(
                [self.output_name], {self.input_name: feed.astype(self.dtype, copy=False)}
            )
        except sessions.ORT_ERRORS as error:
            reason = str(error).strip().splitlines()[0]
            raise StageError(f"onnxruntime cannot run {self.path} on these images: {reason}") from error
        if self.gives_classes:
            return found[0].astype(np.int64), np.ones(len(images), np.bool_)
        scores = found[0].astype(np.float32)
        return np.argsort(-scores, axis=1, kind="stable")[:, :_BEST], np.isfinite(scores.max(axis=1))


def open_classifier(
    path: Path, *, provider: Provider = "cpu", threads: int = 0, num_classes: int | None = None
) -> Classifier:
    """Open an ONNX file of an image classifier; of several outputs, that with `num_classes` scores is used.

    Raises `InputError` when it is none: it has one input, for images, and an output [N, classes].
    """
    session = sessions.open_session(path, provider=provider, threads=threads)
    metadata = decode_metadata(session.get_modelmeta().custom_metadata_map)
    taken = _image_input(session, path)
    sizes = _sizes(taken)
    last = sizes[3] in _COLOURS and sizes[1] not in _COLOURS
    shape = (sizes[3], sizes[1], sizes[2]) if last else (sizes[1], sizes[2], sizes[3])
    output = _answer_output(session, path, num_classes)
    gives_classes = output.type in _CLASSES
    labels = _labels(metadata)
    classes = (len(labels) if labels else None) if gives_classes else _sizes(output)[1]
    return Classifier(
        path,
        session,
        metadata,
        input_name=taken.name,
        dtype=_TYPES[taken.type],
        channels_last=last,
        batch=sizes[0],
        shape=shape,
        output_name=output.name,
        outputs=len(session.get_outputs()),
        gives_classes=gives_classes,
        num_classes=classes,
    )


def require_fit(
    classifier: Classifier, *, shape: tuple[int | None, ...], num_classes: int | None = None
) -> None:
    """Raise `InputError` unless images of `shape` [C, H, W] and `num_classes` classes fit the file."""
    path, expected = classifier.path, classifier.shape
    if any(None not in (want, have) and want != have for want, have in zip(expected, shape, strict=True)):
        raise InputError(f"{path}: takes images of {_size(expected)}, but the data set has {_size(shape)}")
    found = classifier.num_classes
    if None not in (num_classes, found) and found != num_classes:
        raise InputError(
            f"{path}: gives {found} classes, but the data set has {num_classes}; "
            "evaluate it on the data set that it was trained on"
        )


def _image_input(session: Any, path: Path) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        found = ", ".join(f"{item.name} {item.shape}" for item in inputs) or "none"
        raise InputError(f"{path}: expected one input of images [N, C, H, W], found {found}")
    if inputs[0].type not in _TYPES:
        raise InputError(f"{path}: takes {inputs[0].type} input; expected float or uint8 images")
    return inputs[0]


def _answer_output(session: Any, path: Path, num_classes: int | None) -> Any:
    outputs = session.get_outputs()
    flat = [item for item in outputs if len(item.shape) == 2]
    classes = [item for item in flat if item.type in _CLASSES]
    scores = [item for item in flat if item.type in _SCORES]
    if classes or not scores:
        if not classes:
            found = ", ".join(f"{item.name} {item.shape}" for item in outputs)
            raise InputError(f"{path}: expected an output [N, classes], found {found}")
        return classes[0]
    return next((item for item in scores if item.shape[1] == num_classes), scores[0])


def _sizes(item: Any) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in item.shape]


def _size(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)


def _labels(metadata: dict[str, Any]) -> tuple[str, ...] | None:
    labels = metadata.get("labels")
    return tuple(map(str, labels)) if isinstance(labels, list) and labels else None


def _numbers(value: object) -> tuple[float, ...] | None:
    right = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    return tuple(map(float, value)) if right else None  # type: ignore[call-overload]


def _chunks(images: npt.NDArray[Any], batch: int | None) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(images), batch or len(images)):
        chunk = images[start : start + batch] if batch else images
        missing = (batch or 0) - len(chunk)
        yield np.concatenate([chunk, np.zeros_like(chunk[:1]).repeat(missing, 0)]) if missing > 0 else chunk
