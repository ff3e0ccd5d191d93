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
from typing import TYPE_CHECKING, Any

from jstc._version import __version__ as __version__
from jstc.errors import JstcError

if TYPE_CHECKING:
    from jstc.api import SearchResult, SearchResults, search
    from jstc.channels import ChannelMap, Slim, analyse, rebuild, rule
    from jstc.export.any_network import export_onnx
    from jstc.joint_search import JointSearch, recalibrate
    from jstc.plan import Plan
    from jstc.recipe.loading import load as load_recipe
    from jstc.recipe.schema import Recipe
    from jstc.slim import load

__all__ = [
    "ChannelMap", "JointSearch", "JstcError", "Plan", "Recipe", "SearchResult", "SearchResults", "Slim",
    "analyse", "export_onnx", "load", "load_recipe", "rebuild", "recalibrate", "rule", "search",
]  # fmt: skip

_HOMES = {
    "ChannelMap": ("jstc.channels", "ChannelMap"),
    "JointSearch": ("jstc.joint_search", "JointSearch"),
    "Plan": ("jstc.plan", "Plan"),
    "Recipe": ("jstc.recipe.schema", "Recipe"),
    "SearchResult": ("jstc.api", "SearchResult"),
    "SearchResults": ("jstc.api", "SearchResults"),
    "Slim": ("jstc.channels", "Slim"),
    "analyse": ("jstc.channels", "analyse"),
    "export_onnx": ("jstc.export.any_network", "export_onnx"),
    "load": ("jstc.slim", "load"),
    "load_recipe": ("jstc.recipe.loading", "load"),
    "recalibrate": ("jstc.joint_search", "recalibrate"),
    "rebuild": ("jstc.channels", "rebuild"),
    "rule": ("jstc.channels", "rule"),
    "search": ("jstc.api", "search"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jstc' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
