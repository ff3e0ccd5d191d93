"""The summary of a run: one JSON document, read from the files that the stages left.

Nothing is computed again and nothing is invented: what a stage has not written is null or an empty list,
and a note says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jstc import files, recipe_file
from jstc.errors import ChannelError, RecipeError, RunDirectoryError
from jstc.plan import Plan
from jstc.report.histories import read_history
from jstc.report.notes import notes

__all__ = ["SCHEMA", "build", "read", "read_recipe", "unreadable_images"]

SCHEMA = 1

_STAGES = ("search", "finetune", "slim", "export", "bench")
_ONNX_KEYS = ("file", "precision", "accuracy", "max_abs_diff", "top1_agreement", "bytes")
_BENCH_KEYS = ("file", "provider", "batch", "median_ms", "p95_ms", "speedup_vs_target")


def build(run: Path) -> dict[str, Any]:
    """The document of summary.json for the run directory `run`, finished or not.

    Raises `RunDirectoryError` when it is no run directory, or one of its files is damaged.
    """
    recipe = read_recipe(run)
    manifest = read(run, "manifest.json")
    target = read(run, "target.json")
    results = {name: read(run, f"{name}/result.json") for name in ("baseline", *_STAGES)}
    bench = read(run, "bench/bench.json")
    plan = _plan(run)
    summary = {
        "schema": SCHEMA,
        "model": recipe.get("model"),
        "dataset": recipe.get("dataset"),
        "seed": recipe.get("seed"),
        "budget": _pick(target.get("budget") or {}, "metric", "limit", "share"),
        "target": _pick(target, "flops", "params", "accuracy_before")
        | {"accuracy": results["baseline"].get("accuracy")},
        "slim": _pick(results["slim"], "flops", "params", "accuracy", "max_abs_diff_fold"),
        "onnx": _rows(results["export"].get("files"), _ONNX_KEYS),
        "bench": _rows(bench.get("rows"), _BENCH_KEYS),
        "latency": _latency(run, results, target),
        "skipped": bench.get("skipped") or [],
        "seconds": _seconds(results, bench),
        "search": _pick(results["search"], "rounds", "settled", "accuracy", "images_seen")
        | {"shared_by": results["search"].get("shared_by") or []},
        "finetune": _pick(results["finetune"], "epochs", "accuracy", "test_images"),
        "baseline": _pick(results["baseline"], "epochs"),
        "plan_hash": plan.hash if plan else None,
        "groups": _groups(target.get("groups") or [], plan, results["slim"].get("flops_share") or {}),
        "pictures": read(run, "report/pictures.json").get("pictures") or [],
        "frozen": target.get("frozen") or [],
        "unknown_operations": target.get("unknown_operations") or {},
        "unreadable_images": unreadable_images(run),
        "environment": read(run, "bench/environment.json"),
        "versions": manifest.get("versions") or {},
        "command": manifest.get("command") or None,
    }
    return summary | {"notes": notes(summary, recipe=recipe, states=_states(manifest))}


def read_recipe(run: Path) -> dict[str, Any]:
    path = run / "recipe.yaml"
    if not path.is_file():
        raise RunDirectoryError(f"{run} is not a run directory: it has no recipe.yaml")
    try:
        return recipe_file.read_plain(path)
    except RecipeError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def read(run: Path, name: str) -> dict[str, Any]:
    """A JSON document of the run; empty when its stage has not written it."""
    path = run / name
    try:
        return _mapping(files.read_json(path), path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}; run its stage again") from None


def _mapping(document: object, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise RunDirectoryError(f"{path} is damaged: it holds no mapping")
    return document


def _plan(run: Path) -> Plan | None:
    for name in ("slim", "search"):
        path = run / name / "plan.json"
        if path.is_file():
            try:
                return Plan.load(path)
            except ChannelError as error:
                raise RunDirectoryError(f"{path} is damaged: {error}") from None
    return None


def unreadable_images(run: Path) -> int:
    """How many images of the data set could not be read in the run at `run`, each counted once."""
    records = [record for path in run.glob("corrupt*.jsonl") for record in read_history(path)]
    return len({str(record.get("image")) for record in records})


def _pick(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: document.get(key) for key in keys}


def _rows(rows: list[dict[str, Any]] | None, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    # The promised keys first and always; whatever else the stage measured behind them.
    return [_pick(row, *keys) | row for row in rows or []]


def _seconds(results: dict[str, dict[str, Any]], bench: dict[str, Any]) -> dict[str, float | None]:
    seconds = {name: results[name].get("seconds") for name in _STAGES}
    if seconds["bench"] is None:
        seconds["bench"] = bench.get("seconds")
    if results["baseline"]:
        seconds["baseline"] = results["baseline"].get("seconds")
    return seconds


def _latency(run: Path, results: dict[str, dict[str, Any]], target: dict[str, Any]) -> dict[str, Any] | None:
    """Of a budget of latency: how and where it is meant, what was predicted, what was measured."""
    parts = (target, results["search"], results["slim"], read(run, "bench/bench.json"))
    found = [part["latency"] for part in parts if isinstance(part.get("latency"), dict)]
    return {key: value for part in found for key, value in part.items()} or None


def _groups(groups: list[dict[str, Any]], plan: Plan | None, slim: dict[str, float]) -> list[dict[str, Any]]:
    kept = plan.counts if plan else {}
    return [
        _pick(group, "name", "width")
        | {"kept": kept.get(group["name"])}
        | _pick(group, "flops_share")
        | {"flops_share_slim": slim.get(group["name"])}
        for group in groups
    ]


def _states(manifest: dict[str, Any]) -> dict[str, str]:
    return {name: record.get("state", "pending") for name, record in (manifest.get("stages") or {}).items()}
