"""How a file's image becomes what a network takes: one definition, for whoever prepares images.

1. The image is read as RGB, 8 bits a channel. A transparent one is laid on `background`, or, where that is
   None, loses its transparency; 16 bits become their upper 8, and a rotation in EXIF data is not carried out.
2. One of exactly `height` x `width` pixels is taken as it is. Of any other the shorter side is brought to
   `resize_side` pixels, the longer one in proportion, rounded down, and the middle is cut out; without
   `resize_side` it is stretched to height x width. It is resized across first, then down, each time with
   Pillow's antialiased filter and rounded to bytes.
3. A pixel x in [0, 1] of channel c becomes (x - mean[c]) / std[c].

`jstc.data.pixels` does the second with Pillow, for the evaluation and for the script beside exported files,
`jstc.data.transforms` for images that are in memory, `jstc.export.preprocess` in a graph of ONNX: the same
bytes. No numpy and no torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jstc.errors import InputError

__all__ = ["BACKGROUNDS", "INTERPOLATIONS", "Colour", "Interpolation", "Preprocessing", "resize_side"]

Interpolation = Literal["bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)

Colour = tuple[int, int, int]
BACKGROUNDS: dict[str, Colour | None] = {"white": (255, 255, 255), "black": (0, 0, 0), "none": None}
"""Colours by name, in bytes of red, green and blue; "none": transparency is dropped."""

_MARGIN = 256 / 224  # evaluation looks at the central part of a photograph, as is the field's habit


def resize_side(height: int, width: int) -> int:
    """The shorter side of photographs before the middle, height x width, is cut out of them."""
    return round(max(height, width) * _MARGIN)


@dataclass(frozen=True)
class Preprocessing:
    """The definition's figures: sizes in pixels, mean and deviation per channel of pixels in [0, 1].

    Raises `InputError` when the middle would be larger than what it is cut out of, or the figures are not
    of the same channels.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_side: int | None = None
    interpolation: Interpolation = "bilinear"
    background: Colour | None = None

    def __post_init__(self) -> None:
        if self.resize_side is not None and self.resize_side < max(self.height, self.width):
            raise InputError(
                f"images whose shorter side is resized to {self.resize_side} pixels cannot be cropped to "
                f"{self.height}x{self.width}: give a side of {max(self.height, self.width)} or more"
            )
        if len(self.mean) != len(self.std):
            raise InputError(f"{len(self.mean)} means of channels, and {len(self.std)} deviations")

    def metadata(self) -> dict[str, Any]:
        """Entries of an exported file's metadata, from which `from_metadata` makes it again."""
        return {
            "input_size": [len(self.mean), self.height, self.width],
            "mean": list(self.mean),
            "std": list(self.std),
            "resize_side": self.resize_side,
            "interpolation": self.interpolation,
            "background": None if self.background is None else list(self.background),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Preprocessing | None:
        """The definition that a file carries; None for one that carries none, or not the whole of it."""
        size, mean, std = (_numbers(metadata.get(key)) for key in ("input_size", "mean", "std"))
        side, interpolation = metadata.get("resize_side"), metadata.get("interpolation")
        background, colour = metadata.get("background"), _colour(metadata.get("background"))
        known = interpolation in INTERPOLATIONS and (side is None or type(side) is int)
        known = known and (background is None or colour is not None)
        if size is None or mean is None or std is None or not known:
            return None
        if len(size) != 3 or not len(mean) == len(std) == size[0] or not min(size[1:]) > 0:
            return None
        height, width = int(size[1]), int(size[2])
        if side is not None and side < max(height, width):
            return None
        return cls(height, width, mean, std, side, interpolation, colour)  # type: ignore[arg-type]


def _colour(value: object) -> Colour | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(type(part) is int and 0 <= part <= 255 for part in value):
        return None
    return value[0], value[1], value[2]


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or not value:
        return None
    right = all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
    return tuple(map(float, value)) if right else None
