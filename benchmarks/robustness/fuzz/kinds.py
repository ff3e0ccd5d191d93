"""Kinds of damage: which file, how, and which commands are to meet it."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.robustness.fuzz import mutations
from benchmarks.robustness.fuzz.graphs import broken_graph

__all__ = ["KINDS", "Kind"]

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Kind:
    """Files by patterns from the base folder, the damage, and the commands of which one is called.

    `again`: a stage that is to be taken up again, so that its checkpoint is read. `idle`: stages that would
    have to work are not begun; the damage may have made them long. `recorded`: the damage may also be put on
    the run's record, as whoever made the run up would do.
    """

    files: tuple[str, ...]
    mutate: Mutate
    commands: tuple[str, ...]
    again: str = ""
    idle: bool = False
    recorded: bool = False

    def prepare(self, folder: Path, file: Path, rng: random.Random) -> list[str]:
        """Damage `file` in `folder`; returns the words of the command."""
        if self.again:
            _unfinished(folder / "run", self.again)
        file.write_bytes(self.mutate(file.read_bytes(), rng))
        if self.recorded and rng.random() < 0.7:
            _on_record(folder / "run", file)
        return shlex.split(rng.choice(self.commands).format(file=file.relative_to(folder)))


def _unfinished(run: Path, stage: str) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"][stage]["state"] = "failed"
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / stage / "result.json").unlink()


def _on_record(run: Path, file: Path) -> None:
    import hashlib

    manifest, name = json.loads((run / "manifest.json").read_text()), file.relative_to(run).as_posix()
    for stage in manifest["stages"].values():
        if name in stage["artifacts"]:
            stage["artifacts"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))


_SHOW = (
    "report run",
    "report run --json",
    "report run --html",
    "report run --markdown",
    "compare run base --no-measure",
)
_LOAD = ("load run/slim",) * 4
_SEARCH = "search net.py:Small --recipe own.yaml --out run --quiet"
_SEARCH_IN = (
    "search net.py:Small --recipe own.yaml --dataset {name} --data {folder} --out new -q "
    "--set input.image_size=8"
)
_EVAL = "eval base/export/model.onnx --quiet --dataset {name} --data {folder}"

KINDS: dict[str, Kind] = {
    "recipe": Kind(
        ("own.yaml",),
        mutations.broken_yaml,
        ("run own.yaml --out new -q", "search net.py:Small --recipe own.yaml --out new -q",
         "run own.yaml --out run -q"),
        idle=True,
    ),
    "recipe of a run": Kind(
        ("run/recipe.yaml",),
        mutations.broken_yaml,
        (*_SHOW, "finetune run -q", "slim run -q", "export run -q", "bench run -q", "eval run",
         "run run/recipe.yaml"),
        idle=True,
    ),
    "plan": Kind(
        ("run/*/plan.json",),
        mutations.broken_json,
        (*_SHOW, "slim run --fresh -q", "finetune run --fresh -q", *_LOAD),
        recorded=True,
    ),
    "model spec": Kind(
        ("run/slim/model.json",),
        mutations.broken_json,
        ("export run --fresh -q", *_LOAD, "slim run -q"),
        recorded=True,
    ),
    "manifest": Kind(
        ("run/manifest.json",),
        mutations.broken_json,
        (*_SHOW, "slim run -q", "export run -q", "bench run -q", "eval run", _SEARCH,
         "run own.yaml --out run -q"),
        idle=True,
    ),
    "summary": Kind(
        ("run/summary.json",),
        mutations.broken_json,
        ("compare run/summary.json base", "compare base/summary.json run/summary.json",
         "compare base run/summary.json -q"),
    ),
    "results": Kind(
        ("run/*/result.json", "run/target.json", "run/bench/*.json", "run/report/pictures.json"),
        mutations.broken_json,
        (*_SHOW, "search net.py:Small --recipe own.yaml --out run", "export run", "bench run", "slim run",
         "finetune run",
         "eval run", "run own.yaml --out run"),
        idle=True,
        recorded=True,
    ),
    "histories": Kind(
        ("run/search/history.jsonl", "run/finetune/history.jsonl"),
        mutations.broken_lines,
        _SHOW,
        recorded=True,
    ),
    "safetensors": Kind(
        ("run/slim/model.safetensors", "run/finetune/subnetwork.safetensors",
         "run/search/subnetwork.safetensors",
         "run/baseline/model.safetensors"),
        mutations.broken_safetensors,
        ("export run --fresh -q", *_LOAD, "slim run --fresh -q", "finetune run --fresh -q"),
        recorded=True,
    ),
    "weights": Kind(
        ("weights.safetensors",),
        mutations.broken_safetensors,
        ("search net.py:Small --recipe own.yaml --out new --weights {file} -q",),
        idle=True,
    ),
    "weights of torch": Kind(
        ("weights.pt",),
        mutations.broken_bytes,
        ("search net.py:Small --recipe own.yaml --out new --weights {file} -q",
         "search net.py:Small --recipe own.yaml --out new --weights {file} -q --allow-pickle"),
        idle=True,
    ),
    "checkpoint of a search": Kind(
        ("run/search/checkpoint.safetensors",), mutations.broken_safetensors, (_SEARCH,), again="search"
    ),
    "checkpoint of a training": Kind(
        ("run/finetune/checkpoint.safetensors",), mutations.broken_safetensors, ("finetune run -q",),
         again="finetune"
    ),
    "image": Kind(
        ("tree/*/class0/*", "tree/*/class1/*"),
        mutations.broken_bytes,
        (_EVAL.format(name="imagefolder", folder="tree"),
         _SEARCH_IN.format(name="imagefolder", folder="tree")),
    ),
    "parquet": Kind(
        ("parquet/*.parquet",),
        mutations.broken_bytes,
        (_EVAL.format(name="parquet", folder="parquet"),
         _SEARCH_IN.format(name="parquet", folder="parquet")),
    ),
    "ONNX": Kind(
        ("run/export/model.onnx",),
        broken_graph,
        ("eval {file} --dataset digits", "eval {file}",
         "bench {file} base/export/model.onnx --seconds 0.02 --no-memory -q",
         "bench {file} --seconds 0.02 --no-memory --profile -q",
         "compare run base --measure --seconds 0.01 -q"),
        recorded=True,
    ),
}  # fmt: skip
