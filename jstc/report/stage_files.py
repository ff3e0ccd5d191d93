"""The files that the stages of a run left, read for its report: a mapping each, empty where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jstc.core import files
from jstc.errors import ChannelError, RecipeError, RunDirectoryError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.recipe.amounts import Amount, Metric, milliseconds
from jstc.recipe.schema import Recipe

__all__ = [
    "Json",
    "known",
    "number",
    "pick",
    "quotient",
    "read_history",
    "read_json",
    "read_plain_recipe",
    "read_plan",
    "read_recipe",
    "replaced_kernels",
    "unreadable_images",
    "unresolved",
]

Json = dict[str, Any]
"""A document as a stage wrote it, before it is checked."""


def read_plain_recipe(run: Path) -> Json:
    """The recipe of a run, unchecked. Raises `RunDirectoryError` where there is none, or no YAML."""
    path = _recipe_file(run)
    try:
        return loading.read_plain(path)
    except RecipeError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run. Raises `RunDirectoryError` where there is none, or one that is not valid."""
    path = _recipe_file(run)
    try:
        return loading.load(path)
    except RecipeError as error:
        raise RunDirectoryError(f"{path} is damaged or of another version: {error}") from None


def unresolved(label: str, recipe: Recipe) -> Json:
    """One of several budgets as the recipe has it, where no stage has said yet what it comes to."""
    bounds = [_asked(metric, amount) for metric, amount in recipe.at(label).budget.items()]
    return {"label": label, **bounds[0], **({"bounds": bounds} if len(bounds) > 1 else {})}


def _asked(metric: Metric, amount: Amount) -> Json:
    if isinstance(amount, str):
        return {"metric": metric, "limit": milliseconds(amount), "share": None}
    count, share = (None, amount) if amount <= 1 else (int(amount), None)
    return {"metric": metric, "limit": count, "share": share}


def _recipe_file(run: Path) -> Path:
    path = run / "recipe.yaml"
    if not path.exists():
        raise RunDirectoryError(f"{run} is not a run directory: it has no recipe.yaml")
    return path


def read_json(run: Path, name: str) -> Json:
    """A JSON document of the run; empty when its stage has not written it."""
    path = run / name
    try:
        document = files.read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}; run its stage again") from None
    if not isinstance(document, dict):
        raise RunDirectoryError(f"{path} is damaged: it holds no mapping")
    return document


def read_history(path: Path) -> list[Json]:
    """The records of a `history.jsonl` up to the first broken line; none when there is no such file.

    A history is shown, never computed with: one that was cut off is worth as much as it says.
    """
    try:
        lines = files.read_bytes(path, limit=files.MAX_HISTORY_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    records: list[Json] = []
    for line in lines:
        try:
            record = files.parse_json(line, where=str(path))
        except ValueError:
            break
        if not isinstance(record, dict):
            break
        records.append(record)
    return records


def pick(document: Json, *keys: str) -> Json:
    """These keys of a document, null where it lacks them."""
    return {key: document.get(key) for key in keys}


def known(document: Json, *keys: str) -> Json:
    """These keys of a document, as far as it has them."""
    return {key: document[key] for key in keys if key in document}


def number(record: Json, key: str) -> float:
    """A figure of a record; not a number where the record has none."""
    value = record.get(key)
    finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if finite and value is not None else math.nan


def quotient(images: Any, times: Any) -> float | None:
    """Images a time, of numbers as a document has them; None where one of them is none."""
    known = isinstance(images, int) and isinstance(times, int) and images > 0 and times > 0
    return images / times if known else None


def read_plan(run: Path) -> Plan | None:
    """The plan of the slim network, or of the search. Raises `RunDirectoryError` for a damaged one."""
    for name in ("slim", "search"):
        path = run / name / "plan.json"
        if path.exists():
            try:
                return Plan.load(path)
            except ChannelError as error:
                raise RunDirectoryError(f"{path} is damaged: {error}") from None
    return None


def replaced_kernels(results: Iterable[Json]) -> list[Json]:
    """Layers that torch's own kernels would have computed wrong, in any of these results, each kind once."""
    found: dict[tuple[str, str], Json] = {}
    for row in (row for result in results for row in result.get("kernels") or []):
        call, dtype, form = (str(row.get(key)) for key in ("call", "dtype", "form"))
        new = {"layers": [], "call": call, "dtype": dtype, "wrong": [], "form": form}
        kind = found.setdefault((call, dtype), new)
        for key in ("layers", "wrong"):
            kind[key] = sorted({*kind[key], *map(str, row.get(key) or [])})
    return list(found.values())


def unreadable_images(run: Path) -> int:
    """How many images of the data set could not be read in the run at `run`, each counted once."""
    records = [record for path in run.glob("corrupt*.jsonl") for record in read_history(path)]
    return len({str(record.get("image")) for record in records})
