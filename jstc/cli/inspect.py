"""`jstc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstc.cli import options
from jstc.errors import InputError

if TYPE_CHECKING:
    from jstc.recipe import ChannelSettings

__all__ = ["inspect"]


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network; see `jstc models`.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Take classes and image size from it.")
    ] = None,
    data: options.Data = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes", min=1, help="Classes.")] = None,
    in_channels: Annotated[int | None, typer.Option("--in-channels", min=1, help="1 for grey.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", min=1, help="Side in pixels.")] = None,
    cifar: options.Cifar = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="PATTERN", help="Keep these modules whole; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key under channels.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw the structure, too.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", "--verbose", "-v", help="Every group, layer and frozen channel by name.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what can be cut in MODEL, and the smallest budget."""
    from jstc.cli import inspect_view, output
    from jstc.pipeline import inspection

    _check_picture(svg)
    images = inspection.Images(dataset, data, num_classes, in_channels, image_size, cifar)
    found = inspection.inspect(model, images=images, settings=_settings(model, ignore, settings or []))
    if json:
        output.document(found)
    else:
        inspect_view.show(found, every=every)
    if svg is not None:
        _draw(found, svg)


def _settings(model: str, ignore: list[str] | None, overrides: list[str]) -> ChannelSettings:
    from jstc import recipe_file

    for text in overrides:
        if not text.startswith("channels."):
            raise InputError(f"--set {text}: `jstc inspect` reads only keys such as channels.min_share")
    flags = {"model": model, "dataset": "-", "flops": "1", "channels.ignore": ignore or None}
    return recipe_file.from_flags(flags, overrides).channels


def _check_picture(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"--svg {path}: expected a file to write, in a folder that exists")


def _draw(found: dict, path: Path) -> None:  # type: ignore[type-arg]
    from jstc import files
    from jstc.cli import output
    from jstc.report.structure_svg import draw

    files.write_text(path, draw(found))
    output.note(f"The picture is in {path}")
