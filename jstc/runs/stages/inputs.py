"""Judging what a stage is going to read, before the results of an earlier run of it are removed.

Whatever a stage would stumble over is found here by reading it as the stage does: what only the work itself
can find is left to it. Reads in this process alone, and changes nothing.
"""

from __future__ import annotations

from pathlib import Path

from jstc.core import files
from jstc.finetune import require_teacher
from jstc.ort import sessions
from jstc.runs.stages import bench as bench_stage
from jstc.runs.stages import description
from jstc.runs.stages import export as export_stage
from jstc.runs.workspace import StageContext
from jstc.train import handover

__all__ = ["bench", "export", "finetune", "slim"]


def finetune(context: StageContext) -> None:
    """Require the search's plan, its sub-network, and the teacher, each of this network."""
    _require_subnetwork(context, context.path / "search")
    require_teacher(context.workspace.structure(), context.recipe, context.path / "search")


def slim(context: StageContext) -> None:
    """Require the plan, and the sub-network that finetune has trained."""
    _require_subnetwork(context, context.path / "finetune")


def export(context: StageContext) -> None:
    """Require the slim network, and the figures that its files and their card tell."""
    if context.workspace.kept is not None:
        context.workspace.kept.require(context.recipe.export)
        _ = context.workspace.kept.tensors
    else:
        export_stage.emitted(context)
    description.facts_of(context, description.metadata_of(context), [])


def bench(context: StageContext) -> None:
    """Require the exported files, each of which opens, and the target network's weights."""
    facts = bench_stage.facts_of(context)
    for name in list(facts)[1:]:  # the first one is made by the stage
        sessions.open_session(files.inside(context.path, name))
    if context.workspace.kept is None:
        bench_stage.trained_target(context)


def _require_subnetwork(context: StageContext, source: Path) -> None:
    channels, plan = context.workspace.channels, context.plan
    gated = channels.gated(channels.slice(context.workspace.structure(), plan), plan)
    handover.read_subnetwork(source / "subnetwork.safetensors", plan=plan).restore(gated)
