"""The stage that times the exported files beside the target network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from jstc import models
from jstc.core import files
from jstc.export import encode_metadata, write_onnx
from jstc.ort import bench as timing
from jstc.ort import machine
from jstc.ort.bench import BenchResult
from jstc.ort.opened import Facts
from jstc.runs.stages.export import ExportedFile
from jstc.runs.workspace import StageContext

__all__ = ["bench", "facts_of", "trained_target"]

_TARGET = "bench/target.onnx"


def bench(context: StageContext) -> dict[str, Any]:
    """Time every file of the export beside the target network's, interleaved.

    Files with the preprocessing inside take other inputs, and are left out. Writes bench.json,
    environment.json and, by request, profile.json and onnxruntime's traces.
    """
    environment = machine.environment()  # first: its load is that before our own work
    _write_target(context, context.path / _TARGET)
    facts = facts_of(context)
    for name in _left_out(context):
        context.progress.message(
            f"bench: {name} is left out: its time would be that of the preprocessing, too"
        )
    settings, folder = context.recipe.bench, context.folder
    found = timing.measure(
        {name: files.inside(context.path, name) for name in facts},
        settings=settings,
        facts=facts,
        traces=folder if settings.trace else None,
        progress=context.progress,
    )
    _write(found, folder, left_out=_left_out(context), environment=environment)
    return {}


def _write(found: BenchResult, folder: Path, *, left_out: list[str], environment: dict[str, Any]) -> None:
    skipped = [
        {"file": name, "provider": None, "batch": None, "reason": "it has the preprocessing inside"}
        for name in left_out
    ]
    document = found.to_dict()
    files.write_json(folder / "bench.json", document | {"skipped": document["skipped"] + skipped})
    files.write_json(folder / "environment.json", environment)
    if found.profiles:
        files.write_json(folder / "profile.json", {"profiles": found.profiles})


def _entries(context: StageContext) -> list[ExportedFile]:
    entries: list[ExportedFile] = files.read_json(context.path / "export" / "result.json")["files"]
    return entries


def _left_out(context: StageContext) -> list[str]:
    return [entry["file"] for entry in _entries(context) if entry.get("preprocess")]


def facts_of(context: StageContext) -> Mapping[str, Facts]:
    """The files to be timed, by their places in the run directory, the target network's first."""
    slim = files.read_json(context.path / "slim" / "result.json")
    kept = context.workspace.kept
    target = files.read_json(context.path / "target.json") if kept is not None else None
    flops = context.workspace.channels.cost().flops if target is None else target["flops"]
    found = {_TARGET: Facts(flops, "fp32")}
    for entry in _entries(context):
        if not entry.get("preprocess"):
            found[entry["file"]] = Facts(slim["flops"], entry["precision"])
    return found


def _write_target(context: StageContext, path: Path) -> None:
    workspace, settings = context.workspace, context.recipe.export
    if workspace.kept is not None:
        path.parent.mkdir(exist_ok=True)
        workspace.kept.copy_target(path)
        return
    cost = workspace.channels.cost()
    write_onnx(
        trained_target(context),
        path,
        shape=workspace.spec.input_shape,
        opset=settings.opset,
        batch=settings.batch,
        metadata=encode_metadata({"flops": cost.flops, "params": cost.params}),
    )


def trained_target(context: StageContext) -> nn.Module:
    """The target network of the baseline.

    Raises `ModelError` for weights that are not its.
    """
    # Without a baseline the initial weights serve: the time does not depend on them.
    network = context.workspace.new_target()
    weights = context.path / "baseline" / "model.safetensors"
    if context.recipe.baseline and weights.exists():
        models.load_weights(network, weights)
    return network
