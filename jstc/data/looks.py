"""A look at some images of a data set before the run: can they be read, what size are they, what is odd.

No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jstc.core.preprocessing import BACKGROUNDS
from jstc.data.base import background_of
from jstc.data.images import CorruptImages, Encoded, Look, UnreadableImageError
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = [
    "HEADS",
    "LOOKED_AT",
    "SHOWN",
    "Seen",
    "left_out_note",
    "look_at",
    "notes_on",
    "set_aside_note",
    "unread_note",
]

LOOKED_AT = 32
"""Images of a split that are decoded: a third of a second."""
HEADS = 64
"""Images of a split of which the head is read alone."""
SHOWN = 3
_SHOWN_ENDINGS = 5
_BAD_SHARE = 4  # a quarter of those looked at

_Found = TypeVar("_Found")
Read = Callable[[], Encoded]


@dataclass(frozen=True)
class Seen:
    """What a look at a split, called `split`, has found: the images, and those that cannot be read."""

    split: str
    looks: list[Look]
    sizes: list[tuple[int, int]]
    damaged: list[UnreadableImageError]


def look_at(
    name: str,
    split: str,
    reads: Sequence[Read],
    *,
    images: int,
    settings: InputSettings,
    heads: Sequence[Read] = (),
) -> Seen:
    """Decode some images of a split that has so many, and read the heads of others.

    Raises `DataError` when either says that more than `input.max_corrupt` of all are damaged; without that
    key, also when a quarter of them are.
    """
    looks, damaged = _tried(reads, Encoded.look)
    sizes, headless = _tried(heads, Encoded.size)
    for found, looked in ((damaged, len(reads)), (headless, len(heads))):
        if _too_many(len(found), looked, images, settings):
            limit = CorruptImages(settings.max_corrupt).limit
            raise DataError(
                f"dataset '{name}': {len(found)} of {looked} images looked at, out of about {images:,}, are "
                f"damaged, input.max_corrupt allows {limit:,} in all",
                "mend them or take them out; where the others are enough, raise input.max_corrupt",
                details=[*map(str, found[:SHOWN]), *(["..."] if len(found) > SHOWN else [])],
            )
    once = {each.where: each for each in damaged + headless}
    return Seen(split, looks, [(look.height, look.width) for look in looks] + sizes, list(once.values()))


def _tried(
    reads: Iterable[Read], what: Callable[[Encoded], _Found]
) -> tuple[list[_Found], list[UnreadableImageError]]:
    found, damaged = [], []
    for read in reads:
        try:
            found.append(what(read()))
        except UnreadableImageError as error:
            damaged.append(error)
    return found, damaged


def _too_many(damaged: int, looked: int, images: int, settings: InputSettings) -> bool:
    limit = CorruptImages(settings.max_corrupt).limit
    if damaged > limit or (damaged and damaged == looked):
        return True
    bad = settings.max_corrupt is None and damaged * _BAD_SHARE >= looked
    return damaged > 1 and (bad or damaged * images > limit * looked)  # a single one may be chance


def notes_on(seen: Sequence[Seen], settings: InputSettings) -> Iterator[str]:
    """Sentences on what is odd about the images that were looked at."""
    looks = [look for each in seen for look in each.looks]
    transparent, turned, dark = (sum(getattr(look, what) for look in looks) for what in Look._fields[2:])
    if transparent:
        ground = background_of(settings)
        name = next((key for key, colour in BACKGROUNDS.items() if colour == ground), str(ground))
        done = "their transparency is dropped" if ground is None else f"they are laid on {name}"
        yield f"{transparent} of {len(looks)} images looked at are transparent: {done} (input.background)"
    if turned:
        yield (
            f"{turned} of {len(looks)} images looked at have a rotation in their EXIF data, "
            "which is not carried out, as in torchvision"
        )
    if dark:
        yield (
            f"{dark} of {len(looks)} images looked at use less than a sixteenth of their 16 bits: the "
            "network sees them almost black; scale them to the whole range"
        )
    for each in seen:
        if each.damaged:
            first = each.damaged[0]
            images = f"{each.split} images".lstrip()
            yield (
                f"{len(each.damaged)} of the {images} looked at cannot be read ({first.where}: "
                f"{first.reason}): such images are passed over"
            )


def left_out_note(left_out: Mapping[str, int]) -> str | None:
    """One sentence on files that are not read, by how their names end; None where there are none."""
    if not left_out:
        return None
    most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count:,} {ending or 'without an ending'}" for ending, count in most[:_SHOWN_ENDINGS])
    more = ", ..." if len(most) > _SHOWN_ENDINGS else ""
    count = sum(left_out.values())
    files = "file is" if count == 1 else "files are"
    return f"{count:,} {files} left out, whose names end as no image's that can be read here: {shown}{more}"


def set_aside_note(settings: InputSettings) -> str:
    """One sentence on a test split that is taken from all images."""
    return (
        f"there is no test split: {100 * settings.test_fraction:g} % of the images of each class are set "
        "aside for it, the same in every run (input.test_fraction)"
    )


def unread_note(names: Sequence[str]) -> str | None:
    """One sentence on what lies beside the splits; None where nothing does."""
    if not names:
        return None
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"not read, being neither the training nor the test split: {', '.join(names[:SHOWN])}{more}"
