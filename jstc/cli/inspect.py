"""`jstc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstc.cli import options
from jstc.errors import InputError

if TYPE_CHECKING:
    from jstc.recipe.schema import ChannelSettings

__all__ = ["inspect"]


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A name that `jstc models` lists, or your own file.py:function."),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="Take classes and image size from it.")
]
NumClasses = Annotated[int | None, typer.Option("--num-classes", min=1, help="Number of classes.")]
InChannels = Annotated[
    int | None, typer.Option("--in-channels", min=1, help="Channels of the images: 1 for grey.")
]
ImageSize = Annotated[int | None, typer.Option("--image-size", min=1, help="Side of the images, in pixels.")]
Shape = Annotated[
    str | None,
    typer.Option(
        "--shape", metavar="SIZES", help="One input of your own network, without the batch: 40,98 or 1,28,28."
    ),
]
Part = Annotated[
    str | None,
    typer.Option("--part", metavar="NAME", help="Cut only this module; the input is what it is given."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="PATTERN", help="Keep these modules whole; repeatable."),
]
ChannelSettingsOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key, such as channels.min_width=8."),
]
Svg = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", help="Draw the structure into this file, too.")
]
All = Annotated[
    bool, typer.Option("--all", "--verbose", "-v", help="Every group, layer and frozen channel by name.")
]


def inspect(
    model: Model,
    dataset: Dataset = None,
    data: options.Data = None,
    num_classes: NumClasses = None,
    in_channels: InChannels = None,
    image_size: ImageSize = None,
    shape: Shape = None,
    part: Part = None,
    cifar: options.Cifar = False,
    ignore: Ignore = None,
    settings: ChannelSettingsOverrides = None,
    svg: Svg = None,
    every: All = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what can be cut in MODEL, and the smallest budget."""
    from jstc.cli import console, inspect_view
    from jstc.runs import inspection

    _check_picture(svg)
    images = inspection.Images(
        dataset,
        data,
        num_classes,
        in_channels,
        image_size,
        cifar,
        _sizes(shape) if shape is not None else None,
    )
    found = inspection.inspect(
        model, images=images, settings=_settings(model, ignore, settings or []), part=part
    )
    if json:
        console.document(found)
    else:
        inspect_view.show(found, every=every)
    if svg is not None:
        inspect_view.draw(found, svg)


def _sizes(text: str) -> tuple[int, ...]:
    """The sizes in "40,98". Raises `InputError` for anything else."""
    sizes = text.replace(" ", "").split(",")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise InputError(f"--shape {text}: expected whole numbers above zero, such as 40,98 or 1,28,28")
    return tuple(map(int, sizes))


def _settings(model: str, ignore: list[str] | None, overrides: list[str]) -> ChannelSettings:
    from jstc.recipe import loading

    for text in overrides:
        if not text.startswith("channels."):
            raise InputError(f"--set {text}: `jstc inspect` reads only keys such as channels.min_share")
    flags = {"model": model, "dataset": "-", "flops": "1", "channels.ignore": ignore or None}
    return loading.from_flags(flags, overrides).channels


def _check_picture(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"--svg {path}: expected a file to write, in a folder that exists")
