"""What is needed to build a network again: a name and a few numbers. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from jstc.errors import ModelError

__all__ = ["CIFAR_FORMS", "ModelSpec", "spec"]

# name -> is there no other form of it?
CIFAR_FORMS = {"resnet20": True, "resnet32": True, "resnet56": True, "resnet110": True, "vgg16_bn": False}
_SMALL = 64  # images of at most this side get the CIFAR form
_VGG_SIDE = 32  # five poolings
_LIMITS = {"num_classes": 1_000_000, "in_channels": 4096, "height": 16384, "width": 16384}
_MOST_VALUES = 2**28  # of one image: 1 GiB


@dataclass(frozen=True)
class ModelSpec:
    """A network by name: enough to build it again, weights aside.

    `height` and `width` are pixels of the images it is for; `cifar` says that it is the CIFAR form.
    """

    name: str
    num_classes: int
    in_channels: int
    height: int
    width: int
    cifar: bool

    def __post_init__(self) -> None:
        if type(self.name) is not str or not self.name:
            raise ModelError("model: the name must be a text that is not empty")
        for key, limit in _LIMITS.items():
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= limit:
                raise ModelError(f"model: {key} is {value!r}; expected a whole number from 1 to {limit}")
        if math.prod(self.input_shape) > _MOST_VALUES:
            size = "x".join(map(str, self.input_shape))
            raise ModelError(
                f"model: an image of {size} is too large; expected at most {_MOST_VALUES} values"
            )
        if type(self.cifar) is not bool:
            raise ModelError(f"model: cifar is {self.cifar!r}; expected true or false")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        return self.in_channels, self.height, self.width

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Any) -> ModelSpec:
        """The inverse of `to_dict`. Raises `ModelError` for anything else: such files get passed around."""
        if not isinstance(document, Mapping):
            raise ModelError(f"model: expected a JSON object, not {type(document).__name__}")
        known = {field.name for field in fields(cls)}
        missing, odd = sorted(known - set(document)), sorted(set(map(str, document)) - known)
        if missing or odd:
            text = [f"missing keys {missing}"] if missing else []
            text += [f"unknown keys {odd}"] if odd else []
            raise ModelError(f"model: {' and '.join(text)}; expected {sorted(known)}")
        return cls(**document)


def spec(
    name: str, *, num_classes: int, in_channels: int, height: int, width: int, cifar: bool = False
) -> ModelSpec:
    """The spec of a network for images of the given shape.

    Names that have a CIFAR form get it with `cifar`, or for images of at most 64 pixels; some have no
    other. Raises `ModelError` when `cifar` is asked of a network without such a form, or when the images
    are too small for it.
    """
    if cifar and name not in CIFAR_FORMS:
        forms = ", ".join(CIFAR_FORMS)
        raise ModelError(f"model '{name}' has no CIFAR form; these have: {forms}. Leave 'cifar' out")
    small = max(height, width) <= _SMALL
    form = CIFAR_FORMS.get(name, False) or (name in CIFAR_FORMS and (cifar or small))
    if form and name == "vgg16_bn" and min(height, width) < _VGG_SIDE:
        raise ModelError(
            f"model 'vgg16_bn' needs images of {_VGG_SIDE} pixels or more, not {height}x{width}; "
            f"set input.image_size to {_VGG_SIDE}"
        )
    return ModelSpec(name, num_classes, in_channels, height, width, form)
