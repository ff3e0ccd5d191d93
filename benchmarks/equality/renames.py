"""What was renamed or changed on purpose between two recordings."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

__all__ = ["Renames"]


@dataclass(frozen=True)
class Renames:
    """From old to new; `expected` has patterns of files, or `FILE#/POINTER`, that may differ."""

    recipe: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path | None) -> Renames:
        """From a JSON file; nothing without one. Raises `TypeError` for a key that is none of these."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path is not None else cls()

    def path(self, name: str) -> str:
        """The new path of a file in a recording."""
        for old, new in self.files.items():
            name = name.replace(old, new)
        return name

    def text(self, text: str) -> str:
        """A line or a string with the new words, and new recipe keys where it sets them (`key=value`)."""
        for old, new in self.recipe.items():
            text = text.replace(f"{old}=", f"{new}=")
        for old, new in self.texts.items():
            text = text.replace(old, new)
        return text

    def document(self, value: Any) -> Any:
        """A JSON document with new keys and new words."""
        if isinstance(value, dict):
            return {self.keys.get(key, key): self.document(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.document(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def recipe_document(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """A recipe with new keys: each stays in its place, unless it moved to another section."""
        found: dict[str, Any] = {}
        for path, value in _leaves(recipe):
            *sections, last = self.recipe.get(path, path).split(".")
            inside = found
            for section in sections:
                inside = inside.setdefault(section, {})
            inside[last] = value
        return found

    def is_expected(self, file: str, pointer: str = "") -> bool:
        """Whether the file may differ, or what is at `pointer` in it."""
        names = (file, f"{file}#{pointer}") if pointer else (file,)
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.expected)


def _leaves(recipe: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, value))
    return found
