"""jstc: joint search-and-training of smaller networks.

    import jstc

    channels = jstc.analyse(model, example_input)    # what can be cut, and what it costs
    plan = channels.uniform_plan(flops=0.5)          # kept channels of every group
    small = channels.slice(model, plan)              # an ordinary, physically small network
    result = jstc.search(model, train_data, val_data, flops=0.5, out="runs/r")
    network = jstc.load("runs/r/slim")

Importing this is cheap: torch loads with the first name that needs it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jstc.errors import JstcError
from jstc.plan import Plan

if TYPE_CHECKING:
    from jstc.channels import ChannelMap, analyse, rule
    from jstc.pipeline.library import search
    from jstc.recipe import Recipe
    from jstc.recipe_file import load as load_recipe
    from jstc.slim import load

__all__ = ["ChannelMap", "JstcError", "Plan", "Recipe", "analyse", "load", "load_recipe", "rule", "search"]

__version__ = "0.1.0"

_HOMES = {
    "ChannelMap": ("jstc.channels", "ChannelMap"),
    "Recipe": ("jstc.recipe", "Recipe"),
    "analyse": ("jstc.channels", "analyse"),
    "load": ("jstc.slim", "load"),
    "load_recipe": ("jstc.recipe_file", "load"),
    "rule": ("jstc.channels", "rule"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jstc' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _SearchPackage(ModuleType):
    """`jstc.search` is a package of ours and, by our public interface, a function as well."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from jstc.pipeline.library import search

        return search(*arguments, **options)


# The package's own __init__ is empty, so this loads nothing. A function of that name in its place would
# be overwritten by Python at the first import of one of the package's modules.
importlib.import_module("jstc.search")
sys.modules["jstc.search"].__class__ = _SearchPackage
