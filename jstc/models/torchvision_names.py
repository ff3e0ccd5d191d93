"""The names of torchvision's classification networks, read from its source without importing it."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

from jstc.torchvision_import import import_torchvision

__all__ = ["torchvision_names"]


@cache
def torchvision_names() -> tuple[str, ...]:
    """What `torchvision.models.list_models(module=torchvision.models)` returns.

    Importing torchvision to ask it takes seconds; its sources say the same in a fraction of one. They
    are asked only when that fails.
    """
    try:
        found = _from_source()
    except (OSError, SyntaxError, ImportError):
        found = set()
    if not found:
        models = import_torchvision("torchvision.models")
        found = set(models.list_models(module=models))
    return tuple(sorted(found))


def _from_source() -> set[str]:
    package = importlib.util.find_spec("torchvision")
    folders = list(package.submodule_search_locations or ()) if package else []
    found: set[str] = set()
    for folder in folders:
        for path in (Path(folder) / "models").glob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "register_model" in text:
                found |= _registered(ast.parse(text))
    return found


def _registered(module: ast.Module) -> set[str]:
    found = set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _is_register(decorator.func):
                    found.add(_given_name(decorator) or node.name)
    return found


def _is_register(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id == "register_model"


def _given_name(call: ast.Call) -> str | None:
    values = [*call.args, *(k.value for k in call.keywords if k.arg == "name")]
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return None
