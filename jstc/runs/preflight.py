"""Everything that can be found wrong before work starts, cheapest first.

Names, folders and the disk need no torch; what does is in `network_check`, which is loaded after them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jstc.core import processes
from jstc.errors import InputError, RecipeError, RunDirectoryError
from jstc.recipe.schema import Recipe
from jstc.runs.manifest import Manifest
from jstc.runs.workspace import Workspace

__all__ = ["check", "check_bench", "check_space"]

# Checkpoints hold weights, momentum and the sub-network; a file is written whole before the old one goes.
_COPIES = 20
_MARGIN_BYTES = 100_000_000
_BYTES_PER_PARAM = 4


def check(workspace: Workspace, path: Path) -> None:
    """Find every mistake of the user that can be found without training; create nothing.

    Raises an `InputError`; of these, names and folders are looked at before torch is loaded.
    """
    workspace.check_names()
    _check_shares(workspace.recipe)
    _check_trained(workspace)
    _check_writable(path)
    workspace.belongs_to(path)
    if workspace.kept is not None:  # there is no network to look at, and nothing is trained
        return
    from jstc.runs import network_check

    network_check.check(workspace, path)
    num_params, num_budgets = workspace.channels.cost().params, len(workspace.recipe.budgets)
    check_space(path, num_params=num_params, num_budgets=num_budgets)


def _check_shares(recipe: Recipe) -> None:
    """Require a batch that several processes share evenly."""
    images, world = recipe.train.batch_size, processes.world()
    if images % world:
        near = [size for size in (images - images % world, images + world - images % world) if size]
        raise RecipeError(
            f"train.batch_size: {images} images are not shared evenly by {world} processes; "
            f"take {' or '.join(map(str, near))}"
        )


def _check_trained(workspace: Workspace) -> None:
    """Require something that was trained: in this run, or before it."""
    recipe = workspace.recipe
    if workspace.starts_trained:
        if recipe.baseline and not recipe.search.rounds and not recipe.finetune.epochs:
            raise RecipeError(
                "baseline: nothing is trained in this run, and so the baseline is not: leave it out"
            )
    elif not recipe.search.rounds:
        raise RecipeError(
            "search.rounds: 0 cuts a network that is trained already, and this one is taken for untrained",
            "give its weights (--weights FILE); in Python, trained=True says that it has them",
        )


def check_space(path: Path, *, num_params: int, num_budgets: int = 1) -> None:
    """Raise `RunDirectoryError` unless the disk of `path` has room for a run's checkpoints."""
    needed = num_params * _BYTES_PER_PARAM * _COPIES * num_budgets + _MARGIN_BYTES
    free = shutil.disk_usage(_nearest(path)).free
    if free < needed:
        raise RunDirectoryError(
            f"not enough disk space for {path}: a run needs about {needed / 1e6:,.0f} MB, "
            f"{free / 1e6:,.0f} MB are free; free some, or write elsewhere with --out DIR"
        )


def check_bench(recipe: Recipe, path: Path, *, fresh: bool = False) -> None:
    """Raise `InputError` when the run is still to be timed and none of its providers works here."""
    names = recipe.bench.providers
    if {"auto", "cpu"} & set(names) or (not fresh and _is_timed(recipe, path)):
        return
    from jstc.ort import sessions

    problems = {name: sessions.problem(name) for name in names if name != "auto"}
    if all(problems.values()):
        told = "; ".join(f"{name}: {reason}" for name, reason in problems.items())
        raise InputError(f"bench.provider: nothing could be timed here ({told}); use 'auto', or add 'cpu'")


def _is_timed(recipe: Recipe, path: Path) -> bool:
    folders = [path / label for label in recipe.labels] if len(recipe.labels) > 1 else [path]
    manifests = [Manifest.load(folder) for folder in folders]
    return all(m is not None and m.is_done("bench") for m in manifests)


def _check_writable(path: Path) -> None:
    nearest = _nearest(path)
    if not nearest.is_dir():
        raise RunDirectoryError(f"{nearest} is a file; a run needs a directory: name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunDirectoryError(f"no permission to write in {nearest}; name another directory")


def _nearest(path: Path) -> Path:
    """`path` itself or the nearest of its parents that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
