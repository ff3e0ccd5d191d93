"""`jstc inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from jstc.cli import options

__all__ = ["inspect"]


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network; see `jstc models`.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Take classes and image size from it.")
    ] = None,
    data: options.Data = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes", min=1, help="Classes.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", min=1, help="Side in pixels.")] = None,
    cifar: options.Cifar = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what can be cut in MODEL, and the smallest budget."""
    from jstc.cli import output
    from jstc.pipeline import inspection

    found = inspection.inspect(
        model, dataset=dataset, data=data, num_classes=num_classes, image_size=image_size, cifar=cifar
    )
    output.inspection(found, as_json=json)
