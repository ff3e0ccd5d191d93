"""What makes a search the same search when it is called again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jstc.channels import ChannelMap
from jstc.errors import RunDirectoryError
from jstc.recipe import Recipe
from jstc.train import checkpoint

__all__ = ["identity", "require_same"]

_VERSION = 5
"""Raised when the same settings come to mean another search, or a checkpoint to hold something else."""


def identity(recipe: Recipe, channels: ChannelMap) -> dict[str, Any]:
    """What decides the numbers of a search; a checkpoint of another one is refused."""
    keys = {"model", "cifar", "weights", "dataset", "seed", "flops", "params", "latency", "latency_on"}
    settings = recipe.model_dump(mode="json", include=keys)
    parts = {name: getattr(recipe, name).model_dump(mode="json") for name in ("train", "search", "channels")}
    parts["input"] = recipe.input.model_dump(mode="json", exclude=set(recipe.input.FREE))
    finetune = recipe.finetune
    schedule = {"finetune_epochs": finetune.epochs, "finetune_steps_per_epoch": finetune.steps_per_epoch}
    return {"version": _VERSION, **settings, **parts, **schedule, "widths": channels.widths}


def require_same(theirs: Any, ours: Mapping[str, Any], path: Path) -> None:
    """Raise `RunDirectoryError` unless the checkpoint at `path` says that it belongs to our search.

    Before anything is taken over: tensors of another network or policy do not even fit.
    """
    different = checkpoint.differences(theirs, ours)
    if different:
        raise RunDirectoryError(
            f"{path} belongs to another search ({', '.join(different)} differ); "
            "use another directory, or --fresh"
        )
