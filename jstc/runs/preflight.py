"""Everything that can be found wrong before work starts, cheapest first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from jstc.core import processes
from jstc.errors import (
    ChannelError,
    InputError,
    JstcError,
    ModelError,
    RecipeError,
    RunDirectoryError,
    StageError,
)
from jstc.recipe.schema import Recipe
from jstc.runs.directory import require_same
from jstc.runs.manifest import Manifest
from jstc.runs.workspace import Workspace

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check", "check_bench", "check_space", "num_scores"]

# What a network gives for an image: one score for each class, it is hoped.

_IMAGES = 2  # not one: a network that loses or fixes the batch shows


def num_scores(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Class scores for each image [C, H, W]; the network may be on the meta device.

    Raises `ModelError` when what it gives is not [N, scores], and whatever its forward raises.
    """
    import torch

    from jstc.train.loop import evaluating, logits

    where = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluating(network):
        output = network(torch.zeros(_IMAGES, *input_shape, device=where))
    try:
        scores = logits(output)
    except StageError as error:
        raise ModelError(str(error)) from None
    if scores.dim() != 2 or len(scores) != _IMAGES:
        raise ModelError(f"{_IMAGES} images gave {list(scores.shape)}; expected class scores [N, classes]")
    return int(scores.shape[1])


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
    _check_writable(path)
    workspace.belongs_to(path)
    _check_latency(workspace, path)
    _check_tensorboard(workspace.recipe)
    _check_compiler(workspace)
    _check_norms(workspace)
    _check_model(workspace)
    _check_search(workspace)
    num_params, num_budgets = workspace.channels.cost().params, len(workspace.recipe.budgets)
    check_space(path, num_params=num_params, num_budgets=num_budgets)


def _check_shares(recipe: Recipe) -> None:
    """Of several processes each trains on an equal share of every batch."""
    images, world = recipe.train.batch_size, processes.world()
    if images % world:
        near = [size for size in (images - images % world, images + world - images % world) if size]
        raise RecipeError(
            f"train.batch_size: {images} images are not shared evenly by {world} processes; "
            f"take {' or '.join(map(str, near))}"
        )


def _check_norms(workspace: Workspace) -> None:
    if workspace.recipe.train.sync_batchnorm and processes.several() and workspace.device.type != "cuda":
        raise RecipeError(
            "train.sync_batchnorm: torch has batch norms over several processes for GPUs only; "
            f"leave it out on {workspace.device.type}"
        )


def _check_tensorboard(recipe: Recipe) -> None:
    if recipe.tensorboard:
        from jstc.train.metrics import require_tensorboard

        require_tensorboard()


def _check_compiler(workspace: Workspace) -> None:
    """That there is such a device; and that torch.compile works on it, where it is asked for."""
    where, recipe = workspace.device, workspace.recipe
    keys = {"finetune.compile": recipe.finetune.compile, "search.compile": recipe.search.compile}
    key = next((key for key, wanted in keys.items() if wanted), None)
    if key is not None:
        from jstc.train.device import require_compiler

        require_compiler(where, key=key)


def check_space(path: Path, *, num_params: int, num_budgets: int = 1) -> None:
    """Raise `RunDirectoryError` unless the disk of `path` has room for a run's checkpoints."""
    needed = num_params * _BYTES_PER_PARAM * _COPIES * num_budgets + _MARGIN_BYTES
    free = shutil.disk_usage(_nearest(path)).free
    if free < needed:
        raise RunDirectoryError(
            f"not enough disk space for {path}: a run needs about {needed / 1e6:,.0f} MB, "
            f"{free / 1e6:,.0f} MB are free; free some, or write elsewhere with --out DIR"
        )


def _check_model(workspace: Workspace) -> None:
    try:
        _ = workspace.channels
    except ChannelError as error:
        shape = "x".join(map(str, workspace.spec.input_shape))
        raise ModelError(
            f"model '{workspace.recipe.model}', for images of {shape} from '{workspace.info.name}': {error}"
        ) from error
    if not workspace.channels.groups:
        reasons = sorted({frozen.reason for frozen in workspace.channels.frozen})
        raise ModelError(f"model '{workspace.recipe.model}' has no channels to cut: {'; '.join(reasons)}")
    _check_outputs(workspace)
    if workspace.recipe.weights is not None:
        workspace.new_target()


def _check_outputs(workspace: Workspace) -> None:
    """One score for each class; before the weights, which may not fit for the same reason."""
    model, info = workspace.recipe.model, workspace.info
    try:
        found = _num_scores(workspace)
    except ModelError as error:
        raise ModelError(f"model '{model}': {error}") from error
    if found != info.num_classes:
        raise ModelError(
            f"model '{model}' gives {found} scores for an image, dataset '{info.name}' has "
            f"{info.num_classes} classes: give its last layer {info.num_classes} outputs, or let the factory "
            "take num_classes"
        )


def _num_scores(workspace: Workspace) -> int:
    shape = workspace.spec.input_shape
    try:
        return num_scores(workspace.skeleton(), shape)
    except JstcError:
        raise
    except Exception:  # some forwards need values
        try:
            return num_scores(workspace.new_target(), shape)
        except JstcError:
            raise
        except Exception as error:
            size = "x".join(map(str, shape))
            raise ModelError(f"the forward failed for two images of {size}: {error}") from error


def _check_search(workspace: Workspace) -> None:
    """A budget out of reach, thresholds of groups that are not there."""
    from jstc.jst.proposer import Proposer

    largest = next(iter(workspace.budgets))
    Proposer(workspace.costed, workspace.recipe.at(largest))


def _check_latency(workspace: Workspace, path: Path) -> None:
    """What can be said before minutes are spent on measuring; a search that goes on measures nothing here."""
    if workspace.recipe.latency is None or workspace.predictions is not None:
        return
    from jstc.runs.latency_budget import setting_of

    setting_of(workspace.recipe.latency_on)
    if not workspace.fresh:
        require_same(path, workspace.recipe)


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
    return all(m is not None and "bench" in m.stages and m.stages["bench"].state == "done" for m in manifests)


def _check_writable(path: Path) -> None:
    nearest = _nearest(path)
    if not nearest.is_dir():
        raise RunDirectoryError(f"{nearest} is a file; a run needs a directory: name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunDirectoryError(f"no permission to write in {nearest}; name another directory")


def _nearest(path: Path) -> Path:
    """`path` itself or the nearest of its parents that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
