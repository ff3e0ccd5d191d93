"""How images are prepared in a run: recipe keys, then what the weights want, then the data set's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jstc.core.preprocessing import Preprocessing, resize_side
from jstc.data import DataInfo
from jstc.errors import InputError
from jstc.models import Published
from jstc.recipe.schema import InputSettings

__all__ = ["Settled", "settled"]


@dataclass(frozen=True)
class Settled:
    """The data set with its images prepared as the run does it, and one sentence on how, and why so."""

    info: DataInfo
    sentence: str


def settled(
    info: DataInfo,
    settings: InputSettings,
    weights: Path | str | None,
    published: Callable[[], Published | None],
) -> Settled:
    """The preprocessing of a run; `published` tells what is known of network and weights, where it matters.

    Raises `InputError` for keys that do not fit the data, or each other.
    """
    asked = weights is not None or info.size_from in ("images", "nothing")
    known = published() if asked else None
    height, width, size = _size(info, known)
    of_weights = known if known is not None and known.of_weights else None
    base = info.preprocessing if of_weights is None else of_weights.preprocessing
    _require_channels(info, base, settings)
    if of_weights is not None and of_weights.unlike is not None and settings.resize_side is None:
        raise InputError(
            f"{of_weights.origin} prepares images by {of_weights.unlike}, which is not to be had here",
            "give input.resize_side, the nearest to it",
        )
    channels = info.channels
    to = Preprocessing(
        height,
        width,
        _figures(settings.mean or base.mean, channels),
        _figures(settings.std or base.std, channels),
        _side(base, settings, info, height, width),
        settings.interpolation or base.interpolation,
        info.background,
    )
    figures = "the data set's" if of_weights is None else f"those of {of_weights.origin}"
    if settings.mean or settings.std:
        figures = "the recipe's"
    resizing = "" if of_weights is None else _whose_resizing(of_weights.origin, settings)
    return Settled(info.prepared_as(to), _sentence(to, size, resizing, figures))


def _size(info: DataInfo, known: Published | None) -> tuple[int, int, str]:
    """Height and width, and whose they are."""
    own = info.height, info.width
    if info.size_from in ("recipe", "data set"):
        return (*own, "input.image_size" if info.size_from == "recipe" else "the data set's own size")
    if known is not None:
        theirs = known.preprocessing.height, known.preprocessing.width
        if info.size_from == "nothing":
            return (*theirs, f"the size of {known.origin}; input.image_size sets another")
        if min(own) < known.least:
            return (*theirs, f"the size of {known.origin}, which takes no images of {own[0]}x{own[1]}")
    if info.size_from == "images":
        return (*own, "the images' own size; input.image_size sets another")
    return (*own, "the usual size, for images of several or large ones; input.image_size sets another")


def _side(
    base: Preprocessing, settings: InputSettings, info: DataInfo, height: int, width: int
) -> int | None:
    """The recipe's side; else that of `base`, whose size may be another."""
    oblong = info.size_from == "recipe" and height != width
    if settings.resize_side == "stretch" or (settings.resize_side is None and oblong):
        return None
    if settings.resize_side is not None or base.resize_side is None:
        return settings.resize_side
    if base.resize_side == resize_side(base.height, base.width):
        return resize_side(height, width)
    return round(base.resize_side * max(height, width) / max(base.height, base.width))


def _require_channels(info: DataInfo, base: Preprocessing, settings: InputSettings) -> None:
    for key, values in (("input.mean", settings.mean), ("input.std", settings.std)):
        if values is not None and len(values) not in (1, info.channels):
            raise InputError(
                f"{key} has {len(values)} values, and images of '{info.name}' have {info.channels} channels; "
                "give one for each, or one for all"
            )
    if len(base.mean) not in (1, info.channels):
        raise InputError(
            f"the weights are for images of {len(base.mean)} channels, and those of '{info.name}' have "
            f"{info.channels}"
        )


def _figures(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else values * channels


def _whose_resizing(origin: str, settings: InputSettings) -> str:
    """Which part of the resizing is not the recipe's; there accuracies differ by a few images."""
    keys = {"input.resize_side": settings.resize_side, "input.interpolation": settings.interpolation}
    left = [key for key, value in keys.items() if value is None]
    return f" as {origin} wants it ({' and '.join(left)} would say otherwise)" if left else ""


def _sentence(to: Preprocessing, size: str, resizing: str, figures: str) -> str:
    side = to.resize_side
    how = "stretched" if side is None else f"resized to {side} on the shorter side and cropped"
    return (
        f"the network gets {to.height}x{to.width} pixels ({size}); images of other sizes are {how}, "
        f"{to.interpolation}{resizing}; "
        f"mean {_listed(to.mean)} and deviation {_listed(to.std)} are {figures}"
    )


def _listed(figures: tuple[float, ...]) -> str:
    return "/".join(f"{figure:.4g}" for figure in figures)
