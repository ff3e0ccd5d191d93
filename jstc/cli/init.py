"""`jstc init`: a recipe to start from, with comments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jstc.cli import options
from jstc.errors import InputError, UnknownNameError

__all__ = ["init"]

_START = "your-network"


def init(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Which of those that come with jstc, such as quickstart."),
    ] = _START,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write; default: RECIPE.yaml, here.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Write a commented recipe to start from.

    By default it is for a network that you have trained. Change it, then `jstc run` it. No file is
    overwritten.
    """
    from jstc.cli import console
    from jstc.core import files
    from jstc.recipe import loading

    known = loading.shipped()
    if recipe not in known:
        raise UnknownNameError(
            "recipe", recipe, list(known), f"Recipes that come with jstc: {', '.join(known)}"
        )
    path = out or Path(f"{recipe}.yaml")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already; name another file with --out")
    if not path.parent.is_dir():
        raise InputError(f"no folder {path.parent} to write {path.name} to")
    files.write_text(path, known[recipe].read_text(encoding="utf-8"))
    console.text(str(path))
    own = " --model my_network.py:make" if recipe == _START else ""
    marked = "Change the lines that are marked with <-" if own else "Look through it"
    console.note(f"{marked}, then: jstc run {path}{own} --dry-run")
