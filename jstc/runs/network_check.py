"""Mistakes that only the network, its device and its budget can tell, before work starts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from jstc.channels.trace.ids import evaluating
from jstc.core import processes
from jstc.errors import ChannelError, JstcError, ModelError, RecipeError, StageError
from jstc.jst.thresholds import require_groups
from jstc.models.outputs import logits
from jstc.recipe.schema import Recipe
from jstc.runs.directory import require_same
from jstc.runs.manifest import Manifest
from jstc.runs.settings import RENEWABLE
from jstc.runs.stages import GIVEN
from jstc.runs.workspace import Workspace
from jstc.train.device import require_compiler
from jstc.train.metrics import require_tensorboard

__all__ = ["check", "num_scores"]

_IMAGES = 2  # not one: a network that loses or fixes the batch shows


def check(workspace: Workspace, path: Path) -> None:
    """Find what is wrong with device, network, weights, budgets and settings; `path` is the run directory.

    Raises an `InputError`.
    """
    _check_latency(workspace, path)
    _check_tensorboard(workspace.recipe)
    _check_compiler(workspace)
    _check_norms(workspace)
    _check_model(workspace)
    _check_search(workspace, path)


def num_scores(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Class scores for each image [C, H, W]; the network may be on the meta device.

    Raises `ModelError` when what it gives is not [N, scores], and whatever its forward raises.
    """
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


def _check_norms(workspace: Workspace) -> None:
    if workspace.recipe.train.sync_batchnorm and processes.several() and workspace.device.type != "cuda":
        raise RecipeError(
            "train.sync_batchnorm: torch has batch norms over several processes for GPUs only; "
            f"leave it out on {workspace.device.type}"
        )


def _check_tensorboard(recipe: Recipe) -> None:
    if recipe.tensorboard:
        require_tensorboard()


def _check_compiler(workspace: Workspace) -> None:
    """Require such a device, and a torch.compile that works on it where that is asked for."""
    where, recipe = workspace.device, workspace.recipe
    keys = {"finetune.compile": recipe.finetune.compile, "search.compile": recipe.search.compile}
    key = next((key for key, wanted in keys.items() if wanted), None)
    if key is not None:
        require_compiler(where, key=key)


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


def _check_search(workspace: Workspace, path: Path) -> None:
    """A budget out of reach, thresholds of groups that are not there."""
    if workspace.recipe.latency is not None and workspace.predictions is None:
        _score_given(workspace, path)
    _ = workspace.budgets
    require_groups(workspace.channels, workspace.recipe.search.fixed_thresholds)


def _score_given(workspace: Workspace, path: Path) -> None:
    """Where weights are given and not scored yet: before the minutes that measuring latencies takes."""
    manifest = None if workspace.fresh else Manifest.load(path)
    if workspace.recipe.weights is None or (manifest is not None and manifest.is_done(GIVEN)):
        return
    from jstc.runs.stages import given

    given.before_measuring(workspace)


def _check_latency(workspace: Workspace, path: Path) -> None:
    """What can be said before minutes are spent on measuring; a search that goes on measures nothing here."""
    if workspace.recipe.latency is None or workspace.predictions is not None:
        return
    from jstc.runs.latency_budget import setting_of  # onnx and onnxruntime, for such a budget alone

    setting_of(workspace.recipe.latency_on)
    if not workspace.fresh:
        require_same(path, workspace.recipe, renew=RENEWABLE)
