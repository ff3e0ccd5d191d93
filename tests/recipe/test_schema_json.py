"""The JSON schema of a recipe: whole, as wide as what is read, and what the reference is written from."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jstc.errors import RecipeError
from jstc.recipe import loading
from jstc.recipe.schema import json_schema
from jstc.recipe.yaml_reader import parse

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SCHEMA = json_schema()
BASE = "model: m\ndataset: d\nflops: 0.5\n"


def _keys() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in {"": SCHEMA, **SCHEMA["$defs"]}.items():
        yield from ((f"{name}.{key}", schema) for key, schema in part["properties"].items())


KEYS = dict(_keys())


@pytest.mark.parametrize("schema", KEYS.values(), ids=KEYS)
def test_every_key_is_described_in_a_sentence(schema: dict[str, Any]) -> None:
    description = schema.get("description") or SCHEMA["$defs"][schema["$ref"].split("/")[-1]]["description"]
    assert description.endswith(".")
    assert len(description) > 10
    assert "title" not in schema  # editors would show it before the description


def test_there_are_as_many_keys_as_a_recipe_has() -> None:
    recipe = loading.from_flags({"model": "m", "dataset": "d", "flops": 0.5})
    document = recipe.model_dump()
    sections = {name: value for name, value in document.items() if isinstance(value, dict)}
    groups = 3
    assert len(KEYS) == len(document) + sum(map(len, sections.values())) + groups


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether JSON schema takes the value: as much of the standard as the recipe's schema uses."""
    if "$ref" in schema:
        return valid(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[-1]])
    if "anyOf" in schema:
        return any(valid(value, branch) for branch in schema["anyOf"])
    checks = {
        "const": lambda wanted: value == wanted,
        "enum": lambda known: value in known,
        "type": lambda name: _is(value, name),
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "minLength": lambda least: len(value) >= least,
        "minimum": lambda limit: value >= limit,
        "maximum": lambda limit: value <= limit,
        "exclusiveMinimum": lambda limit: value > limit,
        "exclusiveMaximum": lambda limit: value < limit,
        "minItems": lambda least: len(value) >= least,
        "maxItems": lambda most: len(value) <= most,
        "items": lambda inner: all(valid(item, inner) for item in value),
        "prefixItems": lambda inner: all(map(valid, value, inner)),
        "required": lambda names: set(names) <= set(value),
    }
    told = {
        "properties",
        "additionalProperties",
        "default",
        "description",
        "title",
        "format",
        "$schema",
        "$defs",
    }
    assert set(schema) <= set(checks) | told, "a word of JSON schema that this test does not know"
    if "type" in schema and not _is(value, schema["type"]):
        return False
    return all(check(schema[word]) for word, check in checks.items() if word in schema) and _members(
        value, schema
    )


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    types: dict[str, Any] = {
        "integer": int, "number": int | float, "string": str, "array": list, "object": dict,
        "null": type(None),
    }  # fmt: skip
    return name in types and isinstance(value, types[name])


def _members(value: Any, schema: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not all(valid(value[key], known[key]) for key in set(value) & set(known)):
        return False
    rest = [value[key] for key in set(value) - set(known)]
    return not rest if others is False else others is True or all(valid(item, others) for item in rest)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_editors_take_every_shipped_recipe(path: Path) -> None:
    assert valid(parse(path.read_text(encoding="utf-8"), "r").data, SCHEMA)
    assert valid(parse(loading.to_yaml(loading.load(path)), "r").data, SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("0.5", amount)
        for amount in ("50%", "500M", "1.5e9", "'2 G'", "0.7,0.5", "[0.7, 50%]", "' 20M '")
    ]
    + [
        BASE.replace("flops: 0.5", f"latency: {time}")
        for time in ("2ms", "800us", "0.01s", "0.5", "50%", "[0.7, 0.5]", "2ms, 3ms")
    ]
    + [BASE + f"export: {{precisions: {value}}}\n" for value in ("[int8]", "int8", "'fp32, int8'")]
    + [BASE + f"export: {{batch: {value}}}\n" for value in ("8", "null", "dynamic")]
    + [BASE + f"bench: {{provider: {value}}}\n" for value in ("cpu", "[cpu, cuda]", "'cpu, cuda'")]
    + [BASE + "channels: {groups: {layer4.*: {min_width: 8, round_to: auto}}, ignore: [fc]}\n"]
    + [BASE + "search: {fixed_thresholds: {layer1.0: 0.5}, epochs_per_round: auto, tau: [2, 1]}\n"],
)
def test_editors_take_what_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    loading.load(path)
    assert valid(parse(text, "r").data, SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "seed: -1",
        "seed: true",
        "device: gpu",
        "modle: m",
        "flops: lots",
        "flops: 0",
        "flops: []",
        "latency: 2",
        "train: {lr: 0}",
        "train: {batchsize: 3}",
        "search: {tau: [1, 0]}",
        "search: {tau: [1]}",
        "train: 3",
        "search: {method: learn}",
        "search: {inertia: 3}",
        "search: {early_stop_overlap: 2}",
        "export: {precisions: []}",
        "export: {precisions: fp64}",
        "export: {batch: any}",
        "export: {opset: 17}",
        "export: {license: ''}",
        "bench: {provider: 'cpu,gpu'}",
        "bench: {batch_sizes: []}",
        "channels: {groups: {layer4: 8}}",
        "channels: {groups: {a: {min_widht: 4}}}",
        "model: 3",
    ],
)
def test_editors_mark_what_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    key = text.split(":")[0]
    base = "".join(line for line in BASE.splitlines(keepends=True) if not line.startswith(f"{key}:"))
    path.write_text(base + text + "\n", encoding="utf-8")
    with pytest.raises(RecipeError):
        loading.load(path)
    assert not valid(parse(base + text, "r").data, SCHEMA)


def test_a_model_and_a_dataset_are_required() -> None:
    assert not valid({"model": "m", "flops": 0.5}, SCHEMA)
    assert not valid({"dataset": "d", "flops": 0.5}, SCHEMA)


def test_the_reference_is_what_the_schema_gives() -> None:
    script = ROOT / "scripts" / "recipe_reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
