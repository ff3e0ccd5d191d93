"""The stage that emits the slim network."""

from __future__ import annotations

from typing import Any

from torch import nn

from jstc import slim as emitter
from jstc.core import files
from jstc.errors import StageError
from jstc.runs.stages import train
from jstc.runs.workspace import StageContext
from jstc.soundness import Undecided
from jstc.train.loop import Figures

__all__ = ["slim"]

_FOLD_IMAGES = 64
_TF32 = 2.0**-10  # of the largest score: what a GPU's products may keep, where it computes in tensor cores


@train.tested
def slim(context: StageContext) -> dict[str, Any]:
    """Emit the slim network, count it with fvcore, and score it on the test split.

    Raises `StageError` when it holds what no sound training leaves, or does not answer as the finetuned one.
    """
    workspace = context.workspace
    target, plan, channels = workspace.new_target(), context.plan, workspace.channels
    result = emitter.emit(
        target,
        channels,
        workspace.spec,
        plan=plan,
        source=context.path / "finetune",
        directory=context.folder,
        images=train.images(context, _FOLD_IMAGES),
    )
    network = emitter.load(context.folder, target=target, plan=plan)
    train.require_equal("target", target, workspace.example_input(), channels.cost())
    train.require_equal("slim", network, workspace.example_input(), channels.cost(plan))
    cost = channels.cost(plan)
    shares = channels.flops_share_of(plan)
    figures = {"flops": cost.flops, "params": cost.params, "flops_share": shares}
    found = {**result, **figures, **_scored(context, network, result)}
    workspace.keep(context, network, target)
    return found


def _scored(context: StageContext, network: nn.Module, emitted: dict[str, Any]) -> dict[str, Any]:
    """The network's `accuracy`, and on how many test images rounding decides, `undecided`."""
    finetuned = files.read_json(context.path / "finetune" / "result.json")
    apart = max(emitted["max_abs_diff_fold_limit"], context.recipe.export.max_abs_diff)  # also of a file
    if "cuda" in (context.workspace.device.type, finetuned.get("device")):
        apart = max(apart, _TF32 * emitted["rounding"]["largest"])
    asked = Undecided(network, within=2 * apart)  # the best score sinks, the second rises
    found = train.scored(context, asked)
    _require_same_answers(finetuned, found, undecided=asked.count)
    return {"accuracy": found.accuracy, "test_images": found.images, "undecided": asked.count}


def _require_same_answers(finetuned: dict[str, Any], found: Figures, *, undecided: int) -> None:
    """Raise `StageError` unless slim and finetuned network have as many right answers, but for rounding."""
    images = finetuned.get("test_images")
    if images != found.images:  # another part of the split could be read, or an older version did not count
        return
    before, now = (round(accuracy * images) for accuracy in (finetuned["accuracy"], found.accuracy))
    if abs(before - now) > undecided:
        explained = f"on {undecided:,} of them" if undecided else "on none of them"
        raise StageError(
            f"the slim network has {now:,} of {images:,} test images right, the finetuned one had "
            f"{before:,}; rounding decides {explained}",
            "was the data set changed since, or a kernel of torch wrong (`jstc doctor` tests them)? Run "
            "finetune again with --fresh",
        )
