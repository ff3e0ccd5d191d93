#!/usr/bin/env python3
"""Writes docs/recipe.md, the reference of every recipe key, from its schema. `--check` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's jstc, installed or not

from jstc.recipe.explain import expected
from jstc.recipe.schema import json_schema

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"

HEAD = """\
# Recipe: every key

<!-- Written by scripts/recipe_reference.py from jstc/recipe; change descriptions there. -->

A recipe is a YAML file with everything that decides what a run does: `jstc run recipe.yaml`. Keys that are
left out have their defaults; only `model`, `dataset` and a budget (`flops`, `params`, `latency`) have
none. On the command line `--set search.rounds=20` sets any key and wins over the file; an option such as
`--seed 1` wins over both. The recipe as it was run, defaults filled in, is `recipe.yaml` in the run
directory. The folder `recipes` has complete examples.

An unknown key, a value of another type or out of range, and keys that do not go together are refused before
any work, with the line of each mistake.

An editor that speaks JSON schema completes, explains and checks keys while you type. Write the schema beside
your recipes, and name it in their first line, where the YAML language server of VS Code and other editors
looks for it:

```sh
jstc schema > recipe.schema.json
```

```yaml
# yaml-language-server: $schema=recipe.schema.json
model: resnet20
```
"""

Schema = Mapping[str, Any]


def page() -> str:
    """The whole text of docs/recipe.md."""
    schema = json_schema()
    keys = {name: _followed(schema, value) for name, value in schema["properties"].items()}
    single = {name: value for name, value in keys.items() if "properties" not in value}
    parts = [HEAD, "## The run\n", *_table("", single)]
    for name, section in keys.items():
        if name not in single:
            parts += [
                f"\n## `{name}`\n",
                section["description"] + "\n",
                *_table(f"{name}.", section["properties"]),
            ]
            parts += _entries(schema, name, section)
    return "\n".join(parts) + "\n"


def _entries(schema: Schema, name: str, section: Schema) -> Iterator[str]:
    """Tables of the keys that each entry of a mapping has, such as those of `channels.groups`."""
    for key, value in section["properties"].items():
        entry = _followed(schema, value.get("additionalProperties") or {})
        if "properties" in entry:
            prefix = f"{name}.{key}.PATTERN."
            yield f"\n### `{name}.{key}`\n"
            yield entry["description"] + "\n"
            yield from _table(prefix, entry["properties"])


def _followed(schema: Schema, value: Schema) -> Schema:
    reference = value.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else value


def _table(prefix: str, keys: Mapping[str, Schema]) -> Iterator[str]:
    yield "| key | value | default | what it does |"
    yield "|---|---|---|---|"
    for name, schema in keys.items():
        yield f"| `{prefix}{name}` | {_value(schema)} | {_default(schema)} | {schema['description']} |"


def _value(schema: Schema) -> str:
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict):
        return f"by name: {expected(inner)}"
    text = any("pattern" in branch for branch in schema.get("anyOf", []))
    return expected(schema) + (", or text" if text else "")


def _default(schema: Schema) -> str:
    if "default" in schema:
        return f"`{json.dumps(schema['default'])}`".replace('"', "")
    return "`{}`" if "additionalProperties" in schema else "required"


def main() -> None:
    """Write the page, or say with exit code 1 that it is not what the schema gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if it would change")
    wanted = page()
    if not parser.parse_args().check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != wanted:
        sys.exit("docs/recipe.md is not what the schema gives: run scripts/recipe_reference.py")


if __name__ == "__main__":
    main()
