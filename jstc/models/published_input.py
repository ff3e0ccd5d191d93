"""Published figures of how images are prepared for a network: size, resizing, mean and deviation.

torchvision and timm know it of their own weights, networks of Hugging Face bring a
`preprocessor_config.json`, and such a file beside the weights may say it, or a `config.json` as timm writes
it. torch loads with the libraries.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jstc.core import files
from jstc.core.preprocessing import INTERPOLATIONS, Preprocessing
from jstc.core.torchvision_import import import_torchvision
from jstc.errors import InputError
from jstc.models import hugging_face
from jstc.models.catalogue import source_of, task, torchvision_names, weights_file

__all__ = ["Published", "published"]

_MOST_BYTES = 2**20
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_CONVNEXT_SIDE = 384  # below it, Hugging Face's ConvNeXt crops


@dataclass(frozen=True)
class Published:
    """How images are prepared for a network, and who says so.

    `least` is the side in pixels of the smallest that it takes. `of_weights`: is it said of the very weights
    that are given, not of the network alone? `unlike` is how images are resized there where a
    `Preprocessing` cannot do that; the one here then has another way.
    """

    preprocessing: Preprocessing
    origin: str
    least: int = 1
    of_weights: bool = False
    unlike: str | None = None


_Said = tuple[Preprocessing, str | None]
"""A preprocessing, and what it is unlike."""


def published(name: str, weights: Path | str | None = None) -> Published | None:
    """Figures published for a network of this name and a file of weights, or published weights by their name.

    None where there are none. Raises `InputError` for what has no form in a `Preprocessing`, `ModelError`
    where the hub should be asked and cannot be.
    """
    beside = _beside(_file(weights)) if isinstance(weights, Path) else None
    if beside is not None:
        return beside
    try:
        if source_of(name) == "timm":
            return _of_timm(name.removeprefix("timm:"), given=weights is not None)
        if source_of(name) == "hf":
            return _of_hugging_face(name, given=weights is not None)
        named = isinstance(weights, str) and name in torchvision_names()  # so that vgg16_bn is torchvision's
        if named or (source_of(name) == "torchvision" and task(name) == "classification"):
            return _of_torchvision(name, weights)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"what is published about the images of '{name}' cannot be used: {error}") from None
    return None


# The libraries.


def _of_torchvision(name: str, weights: Path | str | None) -> Published | None:
    known = import_torchvision("torchvision.models").get_model_weights(name)
    if not len(known):
        return None
    if isinstance(weights, Path):  # each is downloaded under the last part of its address
        own = next((w for w in known if w.url.rpartition("/")[2] == weights.name), None)
    elif weights is not None:
        own = known.__members__.get(weights.upper().rpartition(".")[2])
    else:
        own = None
    chosen = own or list(known)[-1]
    transforms = chosen.transforms()
    [size], [side] = transforms.crop_size, transforms.resize_size
    by = _known(transforms.interpolation.value)
    found = Preprocessing(size, size, tuple(transforms.mean), tuple(transforms.std), side, by)
    least = max(chosen.meta.get("min_size", (1,)))
    return Published(found, f"torchvision's {chosen}", least, of_weights=own is not None)


def _of_timm(name: str, *, given: bool) -> Published | None:
    config = importlib.import_module("timm").get_pretrained_cfg(name)
    if config is None or not config.mean:
        return None
    smallest = config.input_size if config.fixed_input_size else config.min_input_size
    least = max(smallest[1:]) if smallest else 1
    to, unlike = _as_timm_says(config.to_dict())
    return Published(to, f"timm's {name}", least, given, unlike)


def _of_hugging_face(name: str, *, given: bool) -> Published | None:
    where = "preprocessor_config.json"
    said = _as_hugging_face_says(hugging_face.document(name, where))
    if said is None:
        return None
    to, unlike = said
    least = max(to.height, to.width) if hugging_face.has_fixed_size(name) else 1
    return Published(to, f"the {where} of {name}", least, given, unlike)


def _as_timm_says(config: Mapping[str, Any]) -> _Said:
    _, height, width = config["input_size"]
    crop, mode = config["crop_pct"], config.get("crop_mode") or "center"
    side = None if mode == "squash" else int(max(height, width) / crop)
    unlike = None
    if (mode != "center" and (mode, crop) != ("squash", 1.0)) or crop > 1:
        side, unlike = None, f"crop_mode {mode} with crop_pct {crop:g}"
    by = _known(config["interpolation"])
    return _required((height, width), config["mean"], config["std"], side, by), unlike


def _known(interpolation: str) -> Any:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation '{interpolation}' is none of {', '.join(INTERPOLATIONS)}")
    return interpolation


# Files beside the weights.


def _file(weights: Path) -> Path:
    with contextlib.suppress(InputError):  # that it is not there is told where it is read
        return weights_file(weights)[0]
    return weights


def _beside(weights: Path) -> Published | None:
    readers = {"preprocessor_config.json": _as_hugging_face_says, "config.json": _in_config}
    for name, reader in readers.items():
        path = weights.with_name(name)
        if not path.is_file():
            continue
        try:
            found = reader(files.parse_json(files.read_bytes(path, limit=_MOST_BYTES), where=str(path)))
        except (ValueError, TypeError, KeyError, AttributeError, InputError) as error:
            raise InputError(f"{path} cannot be used for the images of {weights.name}: {error}") from None
        if found is not None:
            to, unlike = found
            return Published(to, str(path), of_weights=True, unlike=unlike)
    return None


def _in_config(document: Any) -> _Said | None:
    config = document.get("pretrained_cfg") if isinstance(document, dict) else None
    return _as_timm_says(config) if isinstance(config, dict) and "mean" in config else None


def _as_hugging_face_says(document: Any) -> _Said | None:
    if not isinstance(document, dict) or "size" not in document:
        return None
    size, crop, unlike = document["size"], document.get("crop_size"), None
    if "crop_pct" in document and "shortest_edge" in size:  # ConvNeXt
        edge = size["shortest_edge"]
        side = int(edge / document["crop_pct"]) if edge < _CONVNEXT_SIDE else None
        height = width = edge
    elif document.get("do_center_crop") and crop is not None:
        height, width = _both(crop)
        side = size["shortest_edge"] if isinstance(size, dict) and "shortest_edge" in size else None
        side = size if isinstance(size, int) else side
        if side is None and _both(size) != (height, width):
            unlike = f"stretching to {size}, then cropping to {crop}"
    else:
        (height, width), side = _both(size), None
    normalised = document.get("do_normalize", True)
    mean = document["image_mean"] if normalised else (0.0,) * 3
    std = document["image_std"] if normalised else (1.0,) * 3
    by = _known(_RESAMPLING.get(document.get("resample", 2), str(document.get("resample"))))
    return _required((height, width), mean, std, side, by), unlike


def _required(
    size: tuple[int, int], mean: Iterable[Any], std: Iterable[Any], side: int | None, by: Any
) -> Preprocessing:
    """What a file says, which anybody may have written. Raises `ValueError` for figures that cannot be."""
    means, deviations = tuple(map(float, mean)), tuple(map(float, std))
    if min(size) < 1 or not all(map(math.isfinite, means)) or not all(0 < d < math.inf for d in deviations):
        raise ValueError(f"size {size}, mean {means} and deviation {deviations} are not those of images")
    return Preprocessing(*size, means, deviations, side, by)


def _both(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))
