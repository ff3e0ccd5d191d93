"""Four values, and the functions through which a reader follows them.

A step names a function, method or class (`project`, `Space.plan`), with its file's name before it where
there are several (`cli/search:search`). In which file it is defined is looked up: one that moves is counted
where it is, and one that is gone is an error.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.structure.counts import definitions

__all__ = ["JOURNEYS", "JourneyError", "files_of", "files_opened"]

JOURNEYS: dict[str, tuple[str, ...]] = {
    "a budget from --flops to a plan": (
        "cli/search:search", "from_flags", "explain:sections", "Recipe.budgets", "parse_amount",
        "commands:run", "default_path", "preflight:check", "Workspace.budgets", "resolve_budgets",
        "WidthBounds.from_settings", "budget:resolve", "stages/__init__:table", "Chain._work",
        "stages/train:search", "Search.run_rounds", "Rounds._begin", "Turns.ask", "turns:choose",
        "Proposer._draw", "jst/space:sample", "Space.plan", "project", "Plan.from_dict",
    ),
    "a batch of training": (
        "MemorySplit.shuffled", "epoch_order", "Part.of", "stream", "jst/round:_batches", "averaging",
        "train_steps", "Mixing.__call__", "seeds:seeded", "one_step:accumulate", "one_step:step",
        "Numerics.call", "GatedNetwork.forward", "Criterion.__call__", "RunningMetrics.add", "Average.update",
        "TrainingMonitor.after_step", "Rounds._save_in_the_middle", "RoundProgress.to_dict",
        "Checkpoints.save", "checkpoint:save",
    ),
    "a plan from search to export": (
        "selection:save", "Plan.save", "save_subnetwork", "stages/train:finetune", "jstc/finetune:finetune",
        "stages/slim:slim", "slim:emit", "ChannelMap.slice", "slicing:rebuild", "stages/train:require_equal",
        "StageContext.plan", "slim:load", "stages/export:export", "write_onnx", "stages/export:figures",
        "description:describe", "export/card:model_card",
    ),
    "an error from input to exit code": (
        "cli/search:search", "commands:run", "preflight:check", "Workspace.info", "datasets:check",
        "JstcError", "Chain._work", "exit_codes", "visible",
    ),
}  # fmt: skip

# The same journeys through the tree of 302 files that jstc was before 0.1.0, to count it beside today's.
FORMERLY: dict[str, tuple[str, ...]] = {
    "a budget from --flops to a plan": (
        "cli/search:search", "from_flags", "recipe_check:sections", "Recipe.budgets", "parse_amount",
        "pipeline/chain:run", "default_path", "preflight:check", "Workspace.budgets", "search/space:limits",
        "Limits.from_settings", "budget:resolve", "pipeline/stages:table", "Chain._work",
        "pipeline/training:search", "joint:search", "Rounds._begin", "turn:choose", "Proposer._draw",
        "sampler:sample", "Space.plan", "project", "Plan.from_dict",
    ),
    "a batch of training": (
        "MemorySplit.shuffled", "epoch_order", "Part.of", "stream", "round:_batches", "averaging",
        "train_steps", "Mixing.__call__", "seeds:seeded", "train/memory:explained", "gradients:step",
        "autocast", "GatedNetwork.forward", "Criterion.__call__", "Tally.add", "Average.update",
        "Watch._after_step", "Rounds._save_in_the_middle", "Middle.to_dict", "Checkpoints.save",
        "checkpoint:save",
    ),
    "a plan from search to export": (
        "verdict:_write", "Plan.save", "subnetwork:save", "adopt", "pipeline/training:finetune",
        "jstc/finetune:finetune", "emitting:slim", "slim:emit", "ChannelMap.slice", "slicing:rebuild",
        "counting:require_equal", "Workspace.load_slim", "slim:load", "exporting:export", "write_onnx",
        "export_figures:figures", "model_card:describe", "export/card:model_card",
    ),
    "an error from input to exit code": (
        "cli/search:search", "pipeline/chain:run", "preflight:check", "Workspace.info",
        "data/catalogue:check", "JstcError", "Chain._work", "exit_codes", "visible",
    ),
}  # fmt: skip


class JourneyError(Exception):
    """A step leads to no function, or to several."""


def files_opened(root: Path) -> dict[str, int]:
    """Files of each journey through the checkout at `root`. Raises `JourneyError`."""
    try:
        return {f"files of {name}": len(files_of(root, steps)) for name, steps in JOURNEYS.items()}
    except JourneyError as error:
        try:
            return {f"files of {name}": len(files_of(root, steps)) for name, steps in FORMERLY.items()}
        except JourneyError:
            raise error from None


def files_of(root: Path, steps: tuple[str, ...]) -> list[Path]:
    """The files that define the steps, in the order of the journey, each once. Raises `JourneyError`."""
    places: dict[str, list[Path]] = {}
    for path in sorted((root / "jstc").rglob("*.py")):
        for name in definitions(path):
            places.setdefault(name, []).append(path)
    return list(dict.fromkeys(_home(root, step, places) for step in steps))


def _home(root: Path, step: str, places: dict[str, list[Path]]) -> Path:
    file, _, name = step.rpartition(":")
    found = places.get(name, [])
    if file:
        wanted = f"/{file}.py"
        found = [path for path in found if f"/{path.relative_to(root).as_posix()}".endswith(wanted)]
    if len(found) != 1:
        where = ", ".join(path.relative_to(root).as_posix() for path in found) or "nowhere"
        raise JourneyError(f"{root}: {step} should be defined in one file; it is in {where}")
    return found[0]
