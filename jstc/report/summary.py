"""The summary of a run: one JSON document, read from the files that the stages left.

Nothing is computed again and nothing is invented: what a stage has not written is null or an empty list,
and a note says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jstc.core import files
from jstc.errors import ChannelError, RecipeError, RunDirectoryError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.recipe.amounts import milliseconds
from jstc.recipe.schema import Recipe
from jstc.report.notes import BUDGETS, notes, unreadable

__all__ = [
    "PICTURE",
    "SCHEMA",
    "build",
    "build_sweep",
    "column",
    "is_sweep",
    "known",
    "points",
    "read",
    "read_history",
    "read_recipe",
    "unreadable_images",
]

# The lines that a training leaves behind, round by round and epoch by epoch, as columns of numbers.

_MAX_BYTES = 256 * 2**20


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of a `history.jsonl` up to the first broken line; none when there is no such file.

    A history is shown, never computed with: one that was cut off is worth as much as it says.
    """
    try:
        lines = files.read_bytes(path, limit=_MAX_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = files.parse_json(line, where=str(path))
        except ValueError:
            break
        if not isinstance(record, dict):
            break
        records.append(record)
    return records


def column(records: Sequence[dict[str, Any]], key: str) -> list[float]:
    """A figure of every record; not a number where a record has none."""
    return [_number(record.get(key)) for record in records]


def known(values: Sequence[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if math.isfinite(value)]


def _number(value: object) -> float:
    finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if finite else math.nan  # type: ignore[arg-type]


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
        return loading.read_plain(path)
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


# The summary of a run with several budgets: what is shared, and a row for every budget.

PICTURE = "report/pareto.svg"

_KEYS = ("slim", "onnx", "bench", "search", "finetune", "plan_hash", "groups", "latency")
_EMPTY: dict[str, Any] = {
    "slim": {"flops": None, "params": None, "accuracy": None, "max_abs_diff_fold": None},
    "onnx": [],
    "bench": [],
    "search": {},
    "finetune": {},
    "plan_hash": None,
    "groups": [],
    "latency": None,
}
_OWN = ("finetune", "slim", "export", "bench")


def is_sweep(run: Path) -> bool:
    """Whether the run at `run` has several budgets, whatever version of jstc it is of."""
    try:
        recipe = loading.read_plain(run / "recipe.yaml")
    except RecipeError:
        return False  # what is wrong there is found by whoever reads more of it
    return any(isinstance(recipe.get(key), list) for key in BUDGETS)


def build_sweep(run: Path) -> dict[str, Any]:
    """The document of summary.json for the run of several budgets at `run`, finished or not.

    Files are named from `run`. Raises `RunDirectoryError` when something in it is damaged.
    """
    recipe, target, manifest = _recipe(run), read(run, "target.json"), read(run, "manifest.json")
    shared = {name: read(run, f"{name}/result.json") for name in ("baseline", "search")}
    budgets = target.get("budgets") or [_unresolved(label, recipe) for label in recipe.labels]
    children = {budget["label"]: _child(run / budget["label"]) for budget in budgets}
    images = unreadable_images(run)
    environments = [child["environment"] for child in children.values() if child.get("environment")]
    return {
        "schema": SCHEMA,
        "model": recipe.model,
        "dataset": recipe.dataset,
        "seed": recipe.seed,
        "budgets": budgets,
        "target": {key: target.get(key) for key in ("flops", "params", "accuracy_before")}
        | {"accuracy": shared["baseline"].get("accuracy")},
        "sweep": [_row(budget, children[budget["label"]]) for budget in budgets],
        "seconds": _sweep_seconds(recipe, shared, children),
        "search": {key: shared["search"].get(key) for key in ("rounds", "settled", "images_seen")},
        "baseline": {"epochs": shared["baseline"].get("epochs")},
        "frozen": target.get("frozen") or [],
        "unknown_operations": target.get("unknown_operations") or {},
        "environment": environments[0] if environments else {},
        "versions": manifest.get("versions") or {},
        "command": manifest.get("command") or None,
        "picture": PICTURE if (run / PICTURE).is_file() else None,
        "unreadable_images": images,
        "notes": [*unreadable(images), *_notes(children)],
    }


def points(summary: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The networks whose accuracy is known, for a picture of the trade-off; and the target, if it is."""
    keys = ("flops", "params", "accuracy")
    found = [{"label": row["label"]} | {key: row["slim"][key] for key in keys} for row in summary["sweep"]]
    target = {key: summary["target"][key] for key in keys}
    known = [point for point in found if point["accuracy"] is not None]
    return known, target if target["accuracy"] is not None else None


def _recipe(run: Path) -> Recipe:
    path = run / "recipe.yaml"
    if not path.is_file():
        raise RunDirectoryError(f"{run} is not a run directory: it has no recipe.yaml")
    try:
        return loading.load(path)
    except RecipeError as error:
        raise RunDirectoryError(f"{path} is damaged or of another version: {error}") from None


def _unresolved(label: str, recipe: Recipe) -> dict[str, Any]:
    metric, amount = recipe.at(label).budget
    if isinstance(amount, str):
        return {"label": label, "metric": metric, "limit": milliseconds(amount), "share": None}
    count, share = (None, amount) if amount <= 1 else (int(amount), None)
    return {"label": label, "metric": metric, "limit": count, "share": share}


def _child(run: Path) -> dict[str, Any]:
    """The summary of one budget's run; empty when that has not begun."""
    return build(run) if (run / "recipe.yaml").is_file() else {}


def _row(budget: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    label = budget["label"]
    row = {key: child.get(key, _EMPTY[key]) for key in _KEYS}
    row |= {key: [one | {"file": f"{label}/{one['file']}"} for one in row[key]] for key in ("onnx", "bench")}
    limits = {key: budget[key] for key in ("metric", "limit", "share")}
    return {"label": label, "run": label, "budget": limits, **row}


def _sweep_seconds(
    recipe: Recipe, shared: dict[str, dict[str, Any]], children: dict[str, dict[str, Any]]
) -> dict[str, float | None]:
    """Of the shared stages, and of all others of each budget together."""
    seconds: dict[str, float | None] = {"search": shared["search"].get("seconds")}
    if recipe.baseline:
        seconds["baseline"] = shared["baseline"].get("seconds")
    for label, child in children.items():
        found = [child["seconds"][name] for name in _OWN if child and child["seconds"][name] is not None]
        seconds[label] = round(sum(found), 3) if found else None
    return seconds


def _notes(children: dict[str, dict[str, Any]]) -> list[str]:
    """The notes of all budgets: what is said of each once, other things with the budget's name."""
    if not all(children.values()):
        waiting = ", ".join(label for label, child in children.items() if not child)
        return [f"The search has not finished: there is no plan yet for {waiting}."]
    all_notes = [child["notes"] for child in children.values()]
    shared = [note for note in all_notes[0] if all(note in notes for notes in all_notes)]
    own = [
        f"{label}: {note}"
        for label, child in children.items()
        for note in child["notes"]
        if note not in shared
    ]
    return [*shared, *own]
