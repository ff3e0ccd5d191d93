"""Mistakes that only the network, its device and its budget can tell, before work starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from jstc import models
from jstc.channels.analysis import require_plain
from jstc.channels.budget import WidthBounds
from jstc.channels.trace.ids import evaluating
from jstc.core import processes
from jstc.errors import OTHER_TASKS, ChannelError, ModelError, RecipeError, StageError
from jstc.jst.thresholds import require_groups
from jstc.models.outputs import logits
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.runs.directory import require_same
from jstc.runs.manifest import Manifest
from jstc.runs.network_trial import Trial, listed, require_float32, require_same_build
from jstc.runs.settings import RENEWABLE
from jstc.runs.stages import GIVEN
from jstc.runs.workspace import Workspace
from jstc.train.device import autocast_dtype, require_compiler, to_device
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
    _check_model(workspace, path)
    _check_search(workspace, path)


def num_scores(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Class scores for each image [C, H, W], or input of another shape; the network may be on meta.

    Raises `ModelError` when what it gives is not [N, scores], and whatever its forward raises.
    """
    require_float32(network)
    where = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluating(network):
        output = network(torch.zeros(_IMAGES, *input_shape, device=where))
    try:
        scores = logits(output)
    except StageError as error:
        raise ModelError(str(error)) from None
    if scores.dim() != 2 or len(scores) != _IMAGES:
        raise ModelError(
            f"{_IMAGES} images gave {list(scores.shape)}; expected class scores [N, classes]", OTHER_TASKS
        )
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


def _check_model(workspace: Workspace, path: Path) -> None:
    """What the network does when it is tried, what can be cut in it, whether the weights fit."""
    network = None if _has_begun(workspace, path) else workspace.structure()
    try:
        trial = None if network is None else _tried(workspace, network)
        _check_channels(workspace)
        if trial is not None and network is not None:
            _try_smallest(workspace, trial, network)
    except (ModelError, ChannelError) as error:
        problem = f"model '{workspace.recipe.model}': {error.problem}"
        raise ModelError(problem, error.advice, details=error.details) from error
    if workspace.recipe.weights is not None and workspace.has_weights:
        workspace.with_weights()


def _has_begun(workspace: Workspace, path: Path) -> bool:
    """Whether a stage of the run has begun, and so the network has passed."""
    manifest = None if workspace.fresh else Manifest.load(path)
    return manifest is not None and any(one.state != "pending" for one in manifest.stages.values())


def _tried(workspace: Workspace, network: nn.Module) -> Trial:
    """Try the network on the run's device, where it is left. Raises `ModelError`."""
    recipe, where = workspace.recipe, workspace.device
    require_plain(network)
    require_float32(network)
    if models.runs_user_code(recipe.model):
        require_same_build(network, workspace.skeleton())
    images = recipe.train.batch_size // processes.world()
    trial = Trial(
        workspace.spec.input_shape,
        workspace.info.num_classes,
        where,
        dataset=workspace.info.name,
        dtype=autocast_dtype(recipe.train, where),
        precision=recipe.train.precision,
        channels_last=recipe.train.channels_last,
        smallest=images // min(recipe.train.accumulate, images),
    )
    found = trial.whole(to_device(network, recipe.train, where))
    for note in found.notes:
        workspace.progress.message(f"warning: {note}")
    if found.reads:
        _try_export(workspace, network, listed(found.reads))
    return trial


def _try_export(workspace: Workspace, network: nn.Module, places: str) -> None:
    """Export a network that reads values of tensors, which takes seconds, and often does not work.

    Raises `ModelError` where it does not and the command exports; where that is for a later one it is said.
    """
    from jstc.export import write_onnx  # onnx and its exporter, for such a network alone

    settings, problem = workspace.recipe.export, ""
    with tempfile.TemporaryDirectory(prefix="jstc-trial-") as scratch:
        try:
            write_onnx(
                network,
                Path(scratch) / "trial.onnx",
                shape=workspace.spec.input_shape,
                opset=settings.opset,
                batch=settings.batch,
                metadata={},
            )
        except StageError as error:
            problem = f"it cannot be exported as it is; the forward reads values of tensors {places}: {error}"
    if problem and "export" in workspace.to_announce:
        raise ModelError(problem)
    if problem:
        workspace.progress.message(f"warning: {problem}")


def _check_channels(workspace: Workspace) -> None:
    try:
        channels = workspace.channels
    except ChannelError as error:
        shape = "x".join(map(str, workspace.spec.input_shape))
        raise ModelError(f"for images of {shape} from '{workspace.info.name}': {error}") from error
    if not channels.groups:
        reasons = sorted({frozen.reason for frozen in channels.frozen})
        raise ModelError(f"it has no channels to cut: {'; '.join(reasons)}")


def _try_smallest(workspace: Workspace, trial: Trial, network: nn.Module) -> None:
    """Train the smallest sub-network that the recipe allows a step; `network` is the whole one."""
    channels = workspace.channels
    least = WidthBounds.from_settings(channels.groups, workspace.recipe.channels).least.tolist()
    kept = {g.name: tuple(range(count)) for g, count in zip(channels.groups, least, strict=True)}
    plan = Plan(kept, channels.widths)
    trial.cut(channels.gated(channels.slice(network, plan), plan))


def _check_search(workspace: Workspace, path: Path) -> None:
    """A budget out of reach, thresholds of groups that are not there."""
    if workspace.recipe.latency is not None and workspace.predictions is None:
        _score_given(workspace, path)
    _ = workspace.budgets
    require_groups(workspace.channels, workspace.recipe.search.fixed_thresholds)


def _score_given(workspace: Workspace, path: Path) -> None:
    """Where weights are given and not scored yet: before the minutes that measuring latencies takes."""
    manifest = None if workspace.fresh else Manifest.load(path)
    if (
        workspace.recipe.weights is None
        or not workspace.has_weights
        or (manifest is not None and manifest.is_done(GIVEN))
    ):
        return
    if workspace.with_weights()[1].new_head:  # not there yet: it is trained in the run
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
