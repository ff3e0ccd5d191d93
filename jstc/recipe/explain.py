"""Mistakes in a recipe, in plain words: the key, what was expected there, and near names.

The wording comes from the recipe's JSON schema: what a key may be is said nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jstc.errors import near_names
from jstc.recipe.schema import IdleKeyError, json_schema
from jstc.recipe.yaml_reader import KeyPath

__all__ = ["RENAMED", "SYNONYMS", "expected", "explain", "meant", "sections", "show", "split_key"]

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

SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model": ("arch", "backbone", "network"),
        "data": ("data_dir", "data_path", "root"),
        "weights": ("pretrained", "resume"),
        "flops": ("gflops", "macs"),
        "device": ("cuda", "gpu", "gpus"),
        "input.image_size": ("crop_size", "img_size", "imgsz", "input_size", "resolution", "size"),
        "input.workers": ("dataloader_workers", "num_workers", "processes"),
        "train.batch_size": ("batch", "batchsize", "bs"),
        "train.accumulate": ("accumulation_steps", "grad_accum"),
        "train.optimizer": ("optim",),
        "train.lr": ("base_lr", "learning_rate", "max_lr"),
        "train.weight_decay": ("decay", "l2", "wd"),
        "train.schedule": ("lr_scheduler", "scheduler"),
        "train.clip_norm": ("clip", "grad_clip", "max_grad_norm"),
        "train.precision": ("amp", "dtype", "mixed_precision"),
        "finetune.epochs": ("epochs", "max_epochs", "num_epochs"),
        "search.rounds": ("epochs", "max_epochs", "num_epochs"),
        "export.precisions": ("quantize",),
    }
)
"""Keys, each with what other tools call it."""

Schema = Mapping[str, Any]
"""A JSON schema, or a part of one."""

_MAX_SHOWN = 5
_MAX_NEAR = 3
_CUTOFF = 0.7


def explain(error: ValidationError, where: Callable[[KeyPath], str], flagged: Collection[KeyPath]) -> str:
    """One line per mistake. `where` says where a key was given; `flagged` keys are named there already.

    Where there is no file, `where` is empty for what was not given at all.
    """
    # Branches of a union report one error each: keep the first one per key.
    found = {_path(details): details for details in reversed(error.errors())}
    lines = [_line(details, path, where, path in flagged) for path, details in reversed(found.items())]
    if len(lines) > _MAX_SHOWN:
        lines[_MAX_SHOWN:] = [f"... and {len(lines) - _MAX_SHOWN} more"]
    return "\n".join(lines)


def _path(details: ErrorDetails) -> KeyPath:
    path, raised = _known_path(details["loc"]), details.get("ctx", {}).get("error")
    return (*path, raised.key) if isinstance(raised, IdleKeyError) else path


def _line(details: ErrorDetails, path: KeyPath, find: Callable[[KeyPath], str], flagged: bool) -> str:
    kind = details["type"]
    if kind == "missing" and isinstance(path[-1], int):  # a list that is too short
        path = path[:-1]
    where, key = find(path), ".".join(map(str, path))
    if kind == "extra_forbidden":
        if key in RENAMED:
            return f"{where}: {key} is called {RENAMED[key]} now"
        return f"{where}: unknown key {key}{_near_keys(path)}"
    if kind == "missing" and key.rsplit(".", 1)[-1] == details["loc"][-1]:
        above = find(path[:-1])
        return f"{above}: {key} is missing" if above else f"--{key} is missing"
    if path and not flagged:
        where = f"{where}: {key}"
    if kind == "value_error":
        return f"{where}: {details['ctx']['error']}" if where else str(details["ctx"]["error"])
    return f"{where}: expected {expected(_lookup(path))}, got {show(details['input'])}"


def show(value: object) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _near_keys(path: KeyPath) -> str:
    *prefix, last = map(str, path)
    known = _lookup(path[:-1]).get("properties", {})
    near = _meant(last, ".".join(prefix), known)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known here: {', '.join(known)}"


def meant(name: str) -> list[str]:
    """Dotted keys that `name` may stand for where it comes without a section (`flops`, `lr`)."""
    top = set(_schema()["properties"]) - set(sections())
    return [name] if name in top else _meant(name, "", top)


def _meant(name: str, section: str, known: Collection[str]) -> list[str]:
    """Keys that may be meant by one that is not `known` in its section: that section's own come first."""
    inside = f"{section}." if section else ""
    usual = [key for key, words in SYNONYMS.items() if name in words]
    if near := near_names(name, known, cutoff=_CUTOFF):
        return [inside + key for key in near]
    found = [inside + key for key in _of_its_words(name, known)]
    here = [key for key in usual if section and key.startswith(inside)]
    same = [key for key in _all_keys() if key.rpartition(".")[2] == name]
    if not here:
        found += [*usual, *same] or _in_other_sections(name)
    return list(dict.fromkeys([*here, *found]))[:_MAX_NEAR]


def _of_its_words(name: str, known: Collection[str]) -> list[str]:
    """Names in `known` with all words of `name` and more (`batch_size` of `batch`), or some and no other."""
    words = set(name.split("_"))
    return [key for key in known if words < set(key.split("_")) or set(key.split("_")) < words]


def _in_other_sections(name: str) -> list[str]:
    last = {key: key.rpartition(".")[2] for key in _all_keys()}
    near = near_names(name, last.values(), cutoff=_CUTOFF) or _of_its_words(name, set(last.values()))
    return [key for key, word in last.items() if word in near]


# Keys, and where in the schema each is.


@cache
def _schema() -> Schema:
    return json_schema()


def sections() -> list[str]:
    """The keys of a recipe that hold keys of their own."""
    return [name for name, schema in _schema()["properties"].items() if "properties" in _resolve(schema)]


def _all_keys() -> Iterator[str]:
    top = _schema()["properties"]
    for section, schema in top.items():
        yield from (f"{section}.{name}" for name in _resolve(schema).get("properties", {}))
    yield from top


def split_key(dotted: str) -> KeyPath:
    """`a.b` as a path; below a free mapping such as fixed_thresholds, dots belong to the name."""
    parts = dotted.split(".")
    schema = _schema()
    for depth, part in enumerate(parts[:-1]):
        schema = _resolve(schema.get("properties", {}).get(part, {}))
        if isinstance(schema.get("additionalProperties"), dict):
            return (*parts[: depth + 1], *_split_name(parts[depth + 1 :], schema["additionalProperties"]))
    return tuple(parts)


def _split_name(parts: Sequence[str], schema: Schema) -> KeyPath:
    """`layer4.*.min_width`: the name of an entry, and the key in it where entries have keys."""
    known = _resolve(schema).get("properties", {})
    has_key = len(parts) > 1 and bool(near_names(parts[-1], known, cutoff=_CUTOFF))
    return (".".join(parts[:-1]), parts[-1]) if has_key else (".".join(parts),)


def _known_path(loc: Sequence[str | int]) -> KeyPath:
    """`loc` without the names that pydantic adds for the branches of a union."""
    schema = _schema()
    for depth, part in enumerate(loc):
        inner = _step(schema, part)
        if inner is None:
            return tuple(loc[: depth + 1] if "properties" in schema else loc[:depth])
        schema = inner
    return tuple(loc)


def _lookup(path: KeyPath) -> Schema:
    schema = _schema()
    for part in path:
        schema = _step(schema, part) or {}
    return schema


def _step(schema: Schema, part: str | int) -> Schema | None:
    if isinstance(part, int):
        prefix = schema.get("prefixItems", [])
        inner = prefix[part] if part < len(prefix) else schema.get("items")
    else:
        inner = schema.get("properties", {}).get(part) or schema.get("additionalProperties") or None
    return _resolve(inner) if isinstance(inner, dict) else None


def _resolve(schema: Schema) -> Schema:
    """The schema that `schema` refers to, without what `sections.AlsoText` adds for editors."""
    if reference := schema.get("$ref"):
        found: Schema = _schema()["$defs"][reference.rsplit("/", 1)[-1]]
        return found
    branches = [branch for branch in schema.get("anyOf", []) if "pattern" not in branch]
    if len(branches) == 1:
        return _resolve(branches[0])
    return {**schema, "anyOf": branches} if branches else schema


# What a schema asks for, in words.


def expected(schema: Schema) -> str:
    """Type and range of a part of the recipe's JSON schema: `a whole number above 0, or null`."""
    schema = _resolve(schema)
    if "anyOf" in schema:
        return ", or ".join(map(expected, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return _expected_list(schema)
    if schema.get("type") == "string":
        return "a path" if schema.get("format") == "path" else "text"
    plain = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}
    return plain.get(schema.get("type", ""), "a section with keys of its own") + _range(schema)


def _expected_list(schema: Schema) -> str:
    if prefix := schema.get("prefixItems"):
        return f"a list of {len(prefix)}, each {expected(prefix[0])}"
    least = schema.get("minItems", 0)
    return f"a list{f' of at least {least}' if least else ''}, each {expected(schema.get('items', {}))}"


def _range(schema: Schema) -> str:
    words = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    limits = [f"{word} {schema[key]:g}" for key, word in words.items() if key in schema]
    return " " + " and ".join(limits) if limits else ""
