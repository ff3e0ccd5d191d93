"""Recipes as files: read with overrides, checked with the line of every mistake, written back whole."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jstc.core import files
from jstc.errors import DamagedError, RecipeError, near_names
from jstc.recipe.explain import explain, sections, show, split_key
from jstc.recipe.schema import Recipe
from jstc.recipe.yaml_reader import KeyPath, Source, parse, scalar

__all__ = [
    "MAX_BYTES",
    "Changes",
    "changes",
    "differences",
    "from_flags",
    "from_python",
    "load",
    "read_plain",
    "said_in",
    "shipped",
    "to_yaml",
    "told",
]

MAX_BYTES = 200_000
"""The most that a recipe may have: what takes seconds to read."""

_BUDGETS = ("flops", "params", "latency")


def load(path: Path, overrides: Sequence[str] = (), flags: Mapping[str, object] | None = None) -> Recipe:
    """Read the recipe at `path`; `overrides` (`train.lr=0.05`) and then `flags` win over it.

    A bare name such as `quickstart` is that of a recipe that comes with jstc, unless there is such a file.
    Raises `RecipeError` that names the file and line, the flag, or the `--set` that is wrong.
    """
    return _build(_read(path), _said(overrides, flags or {}))


def from_flags(flags: Mapping[str, object], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from command-line flags alone: dotted key -> value, None for a flag that was not given.

    Raises `RecipeError` that names the flag or the `--set` that is wrong.
    """
    return _build(Source("", {}), _said(overrides, flags))


def from_python(
    recipe: Recipe | Mapping[str, Any] | Path | str | None,
    settings: Mapping[str, Any] | Sequence[str],
    arguments: Mapping[str, object],
) -> Recipe:
    """A recipe for `jstc.search`: of a file or its name, or a mapping; then `settings` and `arguments` win.

    `settings` are texts `"train.lr=0.05"`, or values by dotted key; `arguments` values by key, None for one
    that was not given. Network and data of the recipe itself are left out of account. Raises `RecipeError`
    that names what is wrong by its key, and by where it was given.
    """
    source = _source(recipe)
    for key in ("model", "dataset", "data"):
        source.data.pop(key, None)
    said = said_in(settings)
    said += [
        (tuple(key.split(".")), value, f"{key}=") for key, value in arguments.items() if value is not None
    ]
    known = {*source.data, *(path[0] for path, _, _ in said)}
    if not known & set(_BUDGETS):
        raise RecipeError("no budget: give flops=0.5 (half of the network's), params= or latency='2ms'")
    return _build(source, said)


def said_in(settings: Mapping[str, Any] | Sequence[str]) -> list[Said]:
    """Path of the key, value and origin of each of the `settings` of a call in Python.

    Raises `RecipeError` for what are no settings.
    """
    if isinstance(settings, str):
        settings = (settings,)
    if isinstance(settings, Mapping):
        return [(split_key(key), value, f"settings[{key!r}]") for key, value in settings.items()]
    if isinstance(settings, Sequence) and all(isinstance(text, str) for text in settings):
        return [_override(text, "settings") for text in settings]
    raise RecipeError('settings= takes {"search.rounds": 20} or ["search.rounds=20"]')


def _source(recipe: Recipe | Mapping[str, Any] | Path | str | None) -> Source:
    if isinstance(recipe, Path | str):
        return _read(Path(recipe))
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(mode="json", exclude_unset=True)  # defaults hang on what else is given
    if recipe is not None and not isinstance(recipe, Mapping):
        raise RecipeError(
            f"recipe= is of type {type(recipe).__name__}: give a dictionary, a file or its name"
        )
    return Source("" if recipe is None else "recipe=", copy.deepcopy(dict(recipe or {})))


def read_plain(path: Path) -> dict[str, Any]:
    """The keys of the file, of whatever version of jstc it is; safe, bounded, and not checked any further.

    Raises `RecipeError`.
    """
    data: dict[str, Any] = _read(path).data
    return data


def shipped() -> dict[str, Path]:
    """The recipes that come with jstc, by name: in the installed package, or in the checkout."""
    package = Path(__file__).parents[1]
    folder = next((f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder is not None else {}


def _read(path: Path) -> Source:
    if path.name == str(path) and not path.exists():
        path = shipped().get(path.name, path)
    try:
        kind = files.irregular(path)
        if kind is not None:
            raise RecipeError(f"{path} is {kind}, not a recipe (a YAML file)")
        text = files.read_bytes(path, limit=MAX_BYTES).decode("utf-8")
        source = parse(text, str(path))
    except DamagedError:
        raise RecipeError(f"{path}: larger than {MAX_BYTES} bytes; no recipe is so large") from None
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}{_near_files(path)}") from None
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not text in UTF-8; a recipe is a YAML file") from None
    if not isinstance(source.data, dict):
        raise RecipeError(f"{path}: expected keys such as `model: resnet20`, got {show(source.data)}")
    return source


def _near_files(path: Path) -> str:
    folder = path.parent
    stems = {p.stem: p for p in sorted(folder.glob("*.y*ml"))} if folder.is_dir() else {}
    near = [str(stems[stem]) for stem in near_names(path.stem, stems)[:2]]
    if path.name == str(path):
        known = shipped()
        near += near_names(path.stem, known)[:2]
        if not near and known and not path.suffix:
            return f"; jstc comes with {', '.join(known)}"
    return f"; did you mean {' or '.join(near)}?" if near else ""


# From what was read and what overrides it to a checked recipe.


@dataclass
class _Draft:
    """Data on its way to a recipe, and who said what: flags and `--set` win over the file's lines."""

    source: Source
    said_by: dict[KeyPath, str] = field(default_factory=dict)

    def put(self, path: KeyPath, value: object, origin: str) -> None:
        target = self.source.data
        for key in path[:-1]:
            if target.get(key) is None:
                target[key] = {}
            target = target[key]
            if not isinstance(target, dict):
                raise RecipeError(f"{origin}: {key} is a single value, not a section")
        target[path[-1]] = value
        self.said_by[path] = origin

    def where(self, path: KeyPath) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.said_by:
                return self.said_by[path[:length]]
        # A section that is there only because a key in it was set: `--set serch.rounds=2`.
        below = [origin for key, origin in self.said_by.items() if key[: len(path)] == path]
        if path and below and path not in self.source.lines:
            return below[0]
        return self.source.where(path)


Said = tuple[KeyPath, object, str]
"""A key, what it is set to, and who said so."""


def _said(overrides: Sequence[str], flags: Mapping[str, object]) -> list[Said]:
    """What a command line says: `--set`, and then its options."""
    given = [_override(text) for text in overrides]
    return given + [
        (tuple(key.split(".")), value, _flag(key)) for key, value in flags.items() if value is not None
    ]


def _build(source: Source, given: Sequence[Said]) -> Recipe:
    for name in sections():
        if source.data.get(name, "") is None:
            del source.data[name]  # a section whose keys are all commented out
    draft = _Draft(source)
    _replace_budget(draft, {path[0] for path, _, _ in given if len(path) == 1})
    for path, value, origin in given:
        draft.put(path, value, origin)
    try:
        return Recipe.model_validate(draft.source.data)
    except ValidationError as error:
        raise RecipeError(explain(error, draft.where, draft.said_by)) from None


def _override(text: str, said_by: str = "--set") -> Said:
    """Key, value and origin of `--set KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip("."):
        example = "--set train.lr=0.05" if said_by == "--set" else "train.lr=0.05"
        raise RecipeError(f"{said_by} {text}: expected key=value, such as {example}")
    origin = f"{said_by} {key}"
    return split_key(key.strip()), parse(value, origin).data, origin


def _flag(key: str) -> str:
    """The option that sets a key: `latency_on.batch` is `--batch`."""
    return "--" + key.rsplit(".", 1)[-1].replace("_", "-")


def _replace_budget(draft: _Draft, keys: Iterable[str | int]) -> None:
    # A budget given on the command line takes the place of the file's, whatever they bound.
    if set(_BUDGETS) & set(keys):
        for name in _BUDGETS:
            draft.source.data.pop(name, None)


# Writing.


def to_yaml(recipe: Recipe) -> str:
    """The full recipe, defaults filled in; `load` gives an equal recipe back."""
    data = recipe.model_dump(mode="json")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that our reader would take for a number, such as `1e5`."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if scalar(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)

# Comparing.


Changes = dict[str, tuple[object, object]]
"""Dotted keys whose values differ, with both values."""

_ORDER = "order of channels.groups"


def changes(one: Recipe, other: Recipe) -> Changes:
    """The keys that differ between two recipes."""
    mine, theirs = (_flat(recipe.model_dump(mode="json")) for recipe in (one, other))
    keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
    found: Changes = {key: (mine.get(key), theirs.get(key)) for key in keys}
    orders = [list(recipe.channels.groups) for recipe in (one, other)]
    if not found and orders[0] != orders[1]:  # of two entries for one group the later wins
        found[_ORDER] = (orders[0], orders[1])
    return found


def told(found: Changes) -> list[str]:
    """A line for each: `train.lr: 0.1 -> 0.05`."""
    return [f"{key}: {show(before)} -> {show(after)}" for key, (before, after) in found.items()]


def differences(one: Recipe, other: Recipe) -> list[str]:
    """A line for each key that differs between two recipes."""
    return told(changes(one, other))


def _flat(data: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
