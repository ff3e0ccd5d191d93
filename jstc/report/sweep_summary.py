"""The summary of a run with several budgets: what is shared, and a row for every budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jstc import recipe_file
from jstc.errors import RecipeError, RunDirectoryError
from jstc.recipe import Recipe
from jstc.recipe_amount import milliseconds
from jstc.report.budgets import BUDGETS
from jstc.report.notes import unreadable
from jstc.report.summary import SCHEMA, read, unreadable_images
from jstc.report.summary import build as build_one

__all__ = ["PICTURE", "build_sweep", "is_sweep", "points"]

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
        recipe = recipe_file.read_plain(run / "recipe.yaml")
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
        "seconds": _seconds(recipe, shared, children),
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
        return recipe_file.load(path)
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
    return build_one(run) if (run / "recipe.yaml").is_file() else {}


def _row(budget: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    label = budget["label"]
    row = {key: child.get(key, _EMPTY[key]) for key in _KEYS}
    row |= {key: [one | {"file": f"{label}/{one['file']}"} for one in row[key]] for key in ("onnx", "bench")}
    limits = {key: budget[key] for key in ("metric", "limit", "share")}
    return {"label": label, "run": label, "budget": limits, **row}


def _seconds(
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
