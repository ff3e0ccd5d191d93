"""Train the chosen sub-network alone; and the target network alone, to compare with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from jstc.channels import ChannelMap
from jstc.channels.cutting.channel_gates import GatedNetwork
from jstc.channels.trace.memory import duplicate
from jstc.core import files
from jstc.core.progress import Progress
from jstc.core.seeds import derive
from jstc.data import Dataset
from jstc.errors import RunDirectoryError
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import checkpoint, collectives, device, handover, kernels
from jstc.train import schedule as schedules
from jstc.train.device import Numerics
from jstc.train.fit import fit
from jstc.train.handover import Handover
from jstc.train.job import FitResult, Job
from jstc.train.loop import computes_right, counted, evaluate
from jstc.train.one_step import Teacher
from jstc.train.recalibration import recalibrate_trained

__all__ = ["finetune", "require_teacher", "score", "train_baseline"]


def finetune(
    target: nn.Module,
    channels: ChannelMap,
    dataset: Dataset,
    *,
    recipe: Recipe,
    source: Path,
    directory: Path,
    progress: Progress,
    searched: Recipe | None = None,
) -> None:
    """Train the sub-network that the search left in `source`, to the end of the run's schedule.

    Weights and the optimiser's state are inherited and the learning rate goes on where the search stopped;
    steps that a settled search did not use are trained here. `searched` is the recipe as the search had it,
    where finetune is to be of another length now. The gates stay as they are. Writes
    `checkpoint.safetensors`, `history.jsonl`, `subnetwork.safetensors` (with the plan's hash; the plan stays
    in `source`) and `result.json` in `directory`; called again, goes on from its checkpoint. `target` is not
    changed: it gives the structure, and the teacher its weights when the recipe names given ones.
    """
    plan = Plan.from_dict(collectives.decided(lambda: Plan.load(source / "plan.json").to_dict()))
    start = handover.load_subnetwork(source / "subnetwork.safetensors", plan=plan)
    gated = _build(target, channels, plan, start, recipe)
    network = gated.ungated()  # training leaves the gates as they are
    job = Job(
        network=_called(network, dataset, recipe, progress),
        trained=gated.network,
        split=dataset.train_full,
        settings=recipe.train,
        schedule=schedules.finetune_schedule(recipe, dataset, searched=searched or recipe),
        steps_per_epoch=schedules.steps_per_finetune_epoch(recipe, dataset),
        seed=derive(recipe.seed, "finetune"),
        first_step=start.step,
        optimizer=start.optimizer,
        teacher=_teacher(target, recipe, source),
        augment=recipe.input.augment,
        num_classes=dataset.info.num_classes,
        ema_decay=recipe.finetune.ema_decay,
        tensorboard=recipe.tensorboard,
        checkpoint=recipe.checkpoint,
        identity={"plan_hash": plan.hash, "source": _hash(source / "subnetwork.safetensors")},
    )
    more = job.epochs - recipe.finetune.epochs
    if more > 0:
        told = f"{recipe.finetune.epochs} of finetune.epochs, and {more} that the search left over"
        progress.message(f"finetune: {job.epochs} epochs, {told}")
    result = _trained(job, network, directory=directory, progress=progress, stage="finetune")
    if collectives.is_first():
        handover.save_subnetwork(
            directory / "subnetwork.safetensors",
            gated,
            optimizer=result.optimizer,
            plan=plan,
            step=job.schedule.total,
        )
    figures = score(network, dataset, recipe=recipe, progress=progress, stage="finetune")
    _report(figures, result, directory)


def train_baseline(
    target: nn.Module, dataset: Dataset, *, recipe: Recipe, directory: Path, progress: Progress
) -> None:
    """Train a copy of `target` alone, for as many epochs as the whole run, over a schedule of its own.

    Give it the network as it was before the search, which trains its own in place. Writes
    `checkpoint.safetensors`, `history.jsonl`, `model.safetensors` (a plain state dict) and `result.json`
    in `directory`; called again, goes on from its checkpoint.
    """
    network = device.to_device(duplicate(target), recipe.train, _device_of(target))
    job = Job(
        network=_called(network, dataset, recipe, progress),
        trained=network,
        split=dataset.train_full,
        settings=recipe.train,
        schedule=schedules.baseline_schedule(recipe, dataset),
        steps_per_epoch=schedules.steps_per_finetune_epoch(recipe, dataset),
        seed=derive(recipe.seed, "baseline"),
        augment=recipe.input.augment,
        num_classes=dataset.info.num_classes,
        ema_decay=recipe.finetune.ema_decay,
        tensorboard=recipe.tensorboard,
        checkpoint=recipe.checkpoint,
    )
    result = _trained(job, network, directory=directory, progress=progress, stage="baseline")
    if collectives.is_first():
        checkpoint.save(directory / "model.safetensors", network.state_dict(), {"epochs": result.epochs})
    figures = score(network, dataset, recipe=recipe, progress=progress, stage="baseline")
    _report(figures, result, directory)


def _trained(job: Job, network: nn.Module, *, directory: Path, progress: Progress, stage: str) -> FitResult:
    """Train, then estimate the batch norms' statistics anew: for the slim and the target network alike.

    The one starts from statistics of its own, which the search has estimated, the other from none; and how
    much of that is left in the running averages depends on the momentum and the number of steps.
    """
    if not job.epochs:  # finetune.epochs: 0, and the network stays as the search leaves it
        return FitResult(0, 0, 0, 0.0, math.nan, math.nan, job.optimizer or {})
    result = fit(job, directory=directory, progress=progress, stage=stage)
    recalibrate_trained(network, job)
    return result


def _build(
    target: nn.Module, channels: ChannelMap, plan: Plan, start: Handover, recipe: Recipe
) -> GatedNetwork:
    small = device.to_device(channels.slice(target, plan), recipe.train, _device_of(target))
    gated = channels.gated(small, plan)
    start.restore(gated)
    gated.alpha.requires_grad_(False)
    return gated


def _called(network: nn.Module, dataset: Dataset, recipe: Recipe, progress: Progress) -> nn.Module:
    """The network as training calls it: itself, or compiled."""
    if not recipe.finetune.compile:
        return network
    shape = (recipe.train.batch_size, *dataset.info.input_shape)
    if not computes_right(network, Numerics.of(recipe.train, _device_of(network)), shape):
        kernels.say_uncompiled("finetune.compile", progress.message)
        return network
    module: nn.Module = device.compiled(network)
    return module


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _teacher(target: nn.Module, recipe: Recipe, source: Path) -> Teacher | None:
    settings = recipe.finetune
    if settings.teacher == "none":
        return None
    network = duplicate(target)
    if _learns_in_search(recipe):
        _load_target(network, source / "target.safetensors")
    device.to_device(network, recipe.train, _device_of(target)).eval().requires_grad_(False)
    return Teacher(network, weight=settings.teacher_weight, temperature=settings.temperature)


def require_teacher(network: nn.Module, recipe: Recipe, source: Path) -> None:
    """Raise `RunDirectoryError` when the teacher is in `source`, and cannot be loaded into `network`."""
    if recipe.finetune.teacher != "none" and _learns_in_search(recipe):
        _take_over(network, _tensors(source / "target.safetensors"), source / "target.safetensors")


def _learns_in_search(recipe: Recipe) -> bool:
    # Untrained when it was built: what it learned, it learned in the search.
    return recipe.weights is None


def _load_target(network: nn.Module, path: Path) -> None:
    saved = collectives.from_first(lambda: (_tensors(path), {}))
    assert saved is not None
    _take_over(network, saved[0], path)


def _take_over(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise _no_teacher(path, error) from None


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        files.require_regular(path)
        return load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _no_teacher(path, error) from None


def _no_teacher(path: Path, error: Exception) -> RunDirectoryError:
    return RunDirectoryError(
        f"the teacher cannot be read from {path}: {error}; repeat the search, or use --fresh"
    )


def _hash(path: Path) -> str:
    return collectives.decided(lambda: files.sha256(path))


def score(
    network: nn.Module, dataset: Dataset, *, recipe: Recipe, progress: Progress, stage: str
) -> dict[str, Any]:
    """Figures of `network` on the test split, of all processes together, and what guessing reaches there."""
    # In float32, as the network is emitted; the test split is read once, for the report, and selects nothing.
    classes: list[Tensor] = []
    batches = counted(dataset.test, recipe.train.batch_size, progress=progress, stage=stage)
    kept = ((images, _kept(labels, classes)) for images, labels in batches)
    found = evaluate(network, kept, Numerics(channels_last=recipe.train.channels_last))
    return {
        "accuracy": found.accuracy,
        "loss": found.loss,
        "test_images": found.images,
        "chance": _chance(classes, dataset.info.num_classes),
        "device": _device_of(network).type,
    }


def _kept(labels: Tensor, classes: list[Tensor]) -> Tensor:
    classes.append(labels.cpu())
    return labels


def _chance(labels: list[Tensor], num_classes: int) -> float:
    """Accuracy of who guesses, or always names the most frequent class, whichever is higher."""
    own = torch.cat([torch.zeros(0, dtype=torch.int64), *labels])
    images = collectives.sums(torch.bincount(own, minlength=num_classes).tolist())
    return max(1 / num_classes, max(images) / sum(images))


def _report(figures: dict[str, Any], result: FitResult, directory: Path) -> None:
    if not collectives.is_first():
        return
    document = {
        "accuracy": figures["accuracy"],
        "loss": figures["loss"],
        "epochs": result.epochs,
        "seconds": result.seconds,
        "images_seen": result.images,
        "test_images": figures["test_images"],
        "chance": figures["chance"],
        "device": figures["device"],
        **({"training_accuracy": result.accuracy} if result.epochs else {}),
        **({"rollbacks": result.rollbacks} if result.rollbacks else {}),
    }
    files.write_json(directory / "result.json", document)
