"""Items of Datasets that are given from Python: an image and its class number, in whatever form they come.

A map-style Dataset gives for a number an image and its class number: as a pair, or as a dictionary such as
Hugging Face's. An image is a float tensor (or array) [C, H, W], which reaches the network as it is; or it is
pixels, that is a Pillow image, a uint8 tensor [C, H, W] or a uint8 array [H, W, C]. Some items are looked at
before any training.
"""

from __future__ import annotations

import math
import numbers
import pickle
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from jstc.core.preprocessing import Colour
from jstc.data.pixels import as_colours
from jstc.data.sampling import epoch_order, spread
from jstc.errors import OTHER_TASKS, DataError

__all__ = ["Items", "Looked", "look", "picture"]

# Items: an image and a class number, in the forms that Datasets have.

_IMAGE_KEYS = ("image", "pixel_values", "img")
_LABEL_KEYS = ("label", "labels", "target")
_EXPECTED = (
    "give a map-style Dataset whose items are an image and its class number, as a pair or as a dictionary "
    "with 'image' (or 'pixel_values') and 'label'"
)
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Items:
    """A map-style Dataset that messages call `name`."""

    data: Any
    name: str

    @classmethod
    def of(cls, data: Any, name: str, *, say: Callable[[str], None]) -> Items:
        """The Dataset in `data`, or of a DataLoader, which is said. Raises `DataError` for anything else."""
        if isinstance(data, DataLoader):
            say(
                f"{name} is a DataLoader: its .dataset is taken; batches, their order and workers are the "
                "recipe's (train.batch_size, seed, input.workers), its sampler and collate_fn are left out"
            )
            data = data.dataset
        if isinstance(data, Mapping):
            keys = ", ".join(map(repr, list(data)[:4]))
            raise DataError(f"{name} is a mapping with the keys {keys}", f"take one of them; {_EXPECTED}")
        if isinstance(data, IterableDataset) or not all(
            hasattr(data, method) for method in ("__getitem__", "__len__")
        ):
            kind = type(data).__name__
            raise DataError(f"{name} is of type {kind}, without items by number: no len() or [i]", _EXPECTED)
        if not len(data):
            raise DataError(f"{name} is empty")
        return cls(data, name)

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> tuple[Any, int]:
        """Image, as it is given, and class number of an item. Raises `DataError` for what is neither."""
        try:
            item = self.data[index]
        except DataError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise DataError(f"{self.name}[{index}] failed: {type(error).__name__}: {error}") from error
        if isinstance(item, tuple | list) and len(item) == 2:
            image, label = item
        elif isinstance(item, Mapping):
            where = f"{self.name}[{index}]"
            image, label = (_named(item, keys, where) for keys in (_IMAGE_KEYS, _LABEL_KEYS))
        else:
            where = f"{self.name}[{index}]"
            raise DataError(f"{where} is of type {type(item).__name__}{_length(item)}", _EXPECTED)
        if isinstance(label, Tensor) and label.numel() == 1:
            label = label.item()
        return image, label if type(label) is int else _class_number(label, f"{self.name}: image {index}")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, where the Dataset, or the one that it is a part of, has them."""
        data = self.data
        for _ in range(8):  # Subsets of subsets
            found = getattr(data, "classes", None) or _features(data)
            if isinstance(found, list | tuple) and found:
                return tuple(str(name[0] if isinstance(name, tuple) else name) for name in found)
            data = getattr(data, "dataset", None) or next(iter(getattr(data, "datasets", ())), None)
        return None


def _named(item: Mapping[str, Any], keys: Sequence[str], where: str) -> Any:
    found = [key for key in keys if key in item]
    if len(found) != 1:
        has = ", ".join(map(repr, item))
        raise DataError(
            f"{where} is a dictionary with {has}, and none or several of {', '.join(keys)}", _EXPECTED
        )
    return item[found[0]]


def _length(item: object) -> str:
    return f" with {len(item)} values" if isinstance(item, tuple | list) else ""


def _features(data: Any) -> Any:
    """Names of the classes of a Hugging Face data set."""
    features = getattr(data, "features", None)
    labels = [features.get(key) for key in _LABEL_KEYS] if isinstance(features, Mapping) else []
    return next((names for feature in labels if (names := getattr(feature, "names", None))), None)


def _class_number(label: Any, where: str) -> int:
    if isinstance(label, Tensor | np.ndarray | np.generic):
        count = math.prod(label.shape)
        if count != 1:
            raise DataError(
                f"{where} has a label of {count} values",
                f"give the class number: label.argmax(); {OTHER_TASKS}",
            )
        label = label.item()
    if isinstance(label, str):
        raise DataError(
            f"{where} has the label {label!r}", "give the number of its class, and names as labels="
        )
    if not isinstance(label, numbers.Integral):
        raise DataError(f"{where} has the label {label!r}", "a class number is a whole number from 0 on")
    return int(label)


# Images: tensors as they are, or pixels.


def _form(image: Any, where: str) -> tuple[bool, tuple[int, int, int]]:
    """Whether an image is pixels, and its channels, height and width. Raises `DataError` for others."""
    if isinstance(image, Image.Image):
        return True, (1 if image.mode in _GREY else 3, image.height, image.width)
    if not isinstance(image, Tensor | np.ndarray):
        raise DataError(
            f"{where} is of type {type(image).__name__}", "give a Pillow image, a tensor or an array"
        )
    shape = tuple(image.shape)
    if image.dtype in (torch.uint8, np.uint8):
        height, width, channels = _pixels(image, where).shape
        return True, (1 if channels == 1 else 3, height, width)
    if len(shape) != 3 or 0 in shape:
        raise DataError(f"{where} is {list(shape)}", "expected a tensor [C, H, W]")
    if isinstance(image, np.ndarray) and shape[0] not in (1, 3) and shape[-1] in (1, 3):
        raise DataError(
            f"{where} is {list(shape)}", "numbers that are not uint8 come as [C, H, W]: transpose it"
        )
    return False, (shape[0], shape[1], shape[2])


def _pixels(image: Tensor | np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    """uint8 [H, W, C] of a uint8 tensor [C, H, W] or array [H, W, C], or of either [H, W]."""
    if isinstance(image, Tensor):
        pixels = image.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    else:
        pixels = image
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
        order = "[C, H, W]" if isinstance(image, Tensor) else "[H, W, C]"
        raise DataError(f"{where} is uint8 {list(image.shape)}", f"expected {order} with 1, 3 or 4 channels")
    return pixels


def picture(image: Any, mode: str, background: Colour | None, where: str) -> Image.Image:
    """Pixels as a Pillow image in the mode "RGB" or "L"; what is transparent, on `background`."""
    if not isinstance(image, Image.Image):
        pixels = _pixels(image, where)
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    found: Image.Image = image
    if found.mode == mode and "transparency" not in found.info:
        return found
    try:
        return as_colours(found, mode, background)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


# A look at some items of a Dataset, spread over it: before any training, and within seconds.

_LOOKED_AT = 128
_FEWEST = 16
_SECONDS = 3.0
_SLOW = 0.5e-3  # seconds for an item, from which processes that read it are worth their cost


class Looked(NamedTuple):
    """What was found: `shapes` are [C, H, W] of the images and `labels` their class numbers, by their index.

    `pixels`: they are to be prepared, `pictures`: they are Pillow's; `random`: reading one takes random
    numbers; `slow`: it takes long.
    """

    pixels: bool
    pictures: bool
    shapes: dict[int, tuple[int, int, int]]
    labels: dict[int, int]
    random: bool
    slow: bool
    on_cpu: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the first image."""
        return self.shapes[0]


def look(items: Items) -> Looked:
    """Read some items. Raises `DataError` for images and labels that cannot be trained on."""
    chosen = spread(len(items), _LOOKED_AT)
    order = [0, *(i for i in chosen[epoch_order(len(chosen), seed=0, epoch=0)].tolist() if i)]
    shapes: dict[int, tuple[int, int, int]] = {}
    labels: dict[int, int] = {}
    kinds: dict[int, bool] = {}
    pictures, on_cpu = False, True
    before, began = _random_states(), time.perf_counter()
    for index in order:
        image, labels[index] = items.read(index)
        where = f"{items.name}: image {index}"
        kinds[index], shapes[index] = _form(image, where)
        pictures = pictures or isinstance(image, Image.Image)
        on_cpu = on_cpu and not (isinstance(image, Tensor) and image.device.type != "cpu")
        if not kinds[index] and not torch.isfinite(torch.as_tensor(image)).all():
            raise DataError(f"{where} has values that are infinite or no numbers (nan)")
        if time.perf_counter() - began > _SECONDS and len(shapes) >= _FEWEST:
            break
    seconds = (time.perf_counter() - began) / len(shapes)
    _require_alike(items.name, kinds, shapes)
    drawn = any(one != other for one, other in zip(before, _random_states(), strict=True))
    return Looked(kinds[0], pictures, shapes, labels, drawn, seconds > _SLOW, on_cpu)


def _require_alike(name: str, kinds: Mapping[int, bool], shapes: Mapping[int, tuple[int, int, int]]) -> None:
    """Images of one form; tensors of one shape, and pixels of whatever size."""
    for index in sorted(kinds):
        if kinds[index] != kinds[0]:
            words = {True: "pixels (uint8)", False: "a tensor of other numbers"}
            raise DataError(f"{name}: image {index} is {words[kinds[index]]}, the first {words[kinds[0]]}")
        if not kinds[0] and shapes[index] != shapes[0]:
            raise DataError(
                f"{name}: image {index} is {list(shapes[index])}, the first {list(shapes[0])}",
                "bring them to one size in the Dataset's transform, or give Pillow images, which are resized",
            )


def _random_states() -> tuple[bytes, object, bytes]:
    numpy_state = np.random.get_state()
    words = pickle.dumps(numpy_state)
    return torch.random.get_rng_state().numpy().tobytes(), random.getstate(), words
