"""What is wrong with a recipe, in plain words: the key, what was expected there, and near names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from jstc.recipe.schema import IdleKeyError, Recipe
from jstc.recipe.yaml_reader import KeyPath

__all__ = ["RENAMED", "explain", "sections", "show", "split_key"]

_MAX_SHOWN = 5

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "search.inertia": "search.recency_bonus",
        "search.stream_lead": "search.residual_threshold_offset",
        "search.judge_every": "search.eval_every",
        "search.reward_images": "search.eval_images",
        "search.settle_overlap": "search.early_stop_overlap",
        "search.settle_window": "search.early_stop_window",
        "search.taylor_images": "search.importance_images",
        "search.alpha_lr": "search.gate_lr",
        "search.alpha_steps": "search.gate_steps",
    }
)
"""Keys of earlier versions, each with its name today; the earlier name is refused with the new one."""


def explain(error: ValidationError, where: Callable[[KeyPath], str], flagged: Collection[KeyPath]) -> str:
    """One line per mistake. `where` says where a key was given; `flagged` keys are named there already."""
    # Branches of a union report one error each: keep the first one per key.
    found = {_path(e): dict(e) for e in reversed(error.errors())}
    lines = [_explain(where, path, e, path in flagged) for path, e in reversed(found.items())]
    if len(lines) > _MAX_SHOWN:
        lines[_MAX_SHOWN:] = [f"... and {len(lines) - _MAX_SHOWN} more"]
    return "\n".join(lines)


def _path(error: Mapping[str, Any]) -> KeyPath:
    path, raised = _known_path(error["loc"]), error.get("ctx", {}).get("error")
    return (*path, raised.key) if isinstance(raised, IdleKeyError) else path


def sections() -> list[str]:
    """The keys of a recipe that hold keys of their own."""
    return [name for name, schema in _schema()["properties"].items() if "properties" in _resolve(schema)]


def split_key(dotted: str) -> KeyPath:
    """`a.b` as a path; below a free mapping such as fixed_thresholds, dots belong to the name."""
    parts = dotted.split(".")
    schema: Mapping[str, Any] = _schema()
    for depth, part in enumerate(parts[:-1]):
        schema = _resolve(schema.get("properties", {}).get(part, {}))
        if isinstance(schema.get("additionalProperties"), dict):
            return (*parts[: depth + 1], *_split_name(parts[depth + 1 :], schema["additionalProperties"]))
    return tuple(parts)


def _split_name(parts: Sequence[str], schema: Mapping[str, Any]) -> KeyPath:
    """`layer4.*.min_width`: the name of an entry, and the key in it where entries have keys."""
    known = _resolve(schema).get("properties", {})
    has_key = len(parts) > 1 and bool(_alike(parts[-1], known))
    return (".".join(parts[:-1]), parts[-1]) if has_key else (".".join(parts),)


def show(value: Any) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_path(loc: Sequence[str | int]) -> KeyPath:
    """`loc` without the names that pydantic adds for the branches of a union."""
    schema: Mapping[str, Any] = _schema()
    for depth, part in enumerate(loc):
        inner = _step(schema, part)
        if inner is None:
            return tuple(loc[: depth + 1] if "properties" in schema else loc[:depth])
        schema = inner
    return tuple(loc)


def _explain(find: Callable[[KeyPath], str], path: KeyPath, error: Mapping[str, Any], flagged: bool) -> str:
    kind = error["type"]
    if kind == "missing" and isinstance(path[-1], int):  # a list that is too short
        path = path[:-1]
    where, key = find(path), ".".join(map(str, path))
    if kind == "extra_forbidden":
        if key in RENAMED:
            return f"{where}: {key} is called {RENAMED[key]} now"
        return f"{where}: unknown key {key}{_near_keys(path)}"
    if kind == "missing" and key.rsplit(".", 1)[-1] == error["loc"][-1]:
        return f"{find(path[:-1])}: {key} is missing"
    if path and not flagged:
        where = f"{where}: {key}"
    if kind == "value_error":
        return f"{where}: {error['ctx']['error']}"
    return f"{where}: expected {_expected(_lookup(path))}, got {show(error['input'])}"


def _near_keys(path: KeyPath) -> str:
    *prefix, last = map(str, path)
    known = _lookup(path[:-1]).get("properties", {})
    near = [key for key in _all_keys() if key.rsplit(".", 1)[-1] == last]
    near = near or [".".join((*prefix, name)) for name in _alike(last, known)]
    if near:
        return "; did you mean " + " or ".join(near[:3]) + "?"
    return f"; known here: {', '.join(known)}"


def _alike(name: str, known: Collection[str]) -> list[str]:
    """Those of `known` that differ from `name` in the order of the letters (`rl`, `lr`), or in a few."""
    swapped = [other for other in known if sorted(other) == sorted(name)]
    return swapped or difflib.get_close_matches(name, known, n=3, cutoff=0.7)


def _all_keys() -> list[str]:
    return [
        f"{section}.{name}"
        for section, schema in _schema()["properties"].items()
        for name in _resolve(schema).get("properties", {})
    ] + list(_schema()["properties"])


@cache
def _schema() -> dict[str, Any]:
    return Recipe.model_json_schema()


def _resolve(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return _schema()["$defs"][reference.rsplit("/", 1)[-1]] if reference else schema


def _step(schema: Mapping[str, Any], part: str | int) -> Mapping[str, Any] | None:
    if isinstance(part, int):
        prefix = schema.get("prefixItems", [])
        inner = prefix[part] if part < len(prefix) else schema.get("items")
    else:
        inner = schema.get("properties", {}).get(part) or schema.get("additionalProperties") or None
    return _resolve(inner) if isinstance(inner, dict) else None


def _lookup(path: KeyPath) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = _schema()
    for part in path:
        schema = _step(schema, part) or {}
    return schema


def _expected(schema: Mapping[str, Any]) -> str:
    """The type and range of a JSON schema in plain words: `a whole number above 0, or null`."""
    if "anyOf" in schema:
        return ", or ".join(_expected(_resolve(branch)) for branch in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return _expected_list(schema)
    if schema.get("type") == "string":
        return "a path" if schema.get("format") == "path" else "text"
    plain = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}
    return plain.get(schema.get("type", ""), "a section with keys of its own") + _range(schema)


def _expected_list(schema: Mapping[str, Any]) -> str:
    if prefix := schema.get("prefixItems"):
        return f"a list of {len(prefix)}, each {_expected(_resolve(prefix[0]))}"
    least = schema.get("minItems", schema.get("minLength", 0))  # pydantic says minLength for tuples
    inner = _expected(_resolve(schema.get("items", {})))
    return f"a list{f' of at least {least}' if least else ''}, each {inner}"


def _range(schema: Mapping[str, Any]) -> str:
    lower = {"exclusiveMinimum": "above", "minimum": "at least"}
    upper = {"exclusiveMaximum": "below", "maximum": "at most"}
    limits = [f"{word} {schema[key]:g}" for key, word in {**lower, **upper}.items() if key in schema]
    return " " + " and ".join(limits) if limits else ""
