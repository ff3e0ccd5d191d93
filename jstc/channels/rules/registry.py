"""The table of rules, by operation name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jstc.channels.trace.ids import Call
from jstc.channels.trace.labelling import Labelling

__all__ = ["find", "rule"]

Rule = Callable[[Labelling, Call], Any]
_rules: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations given as `conv2d` (ATen) or `namespace::name`, all overloads."""

    def register(function: Rule) -> Rule:
        for name in names:
            _rules[name if "::" in name else f"aten::{name}"] = function
        return function

    return register


def find(func: Any) -> Rule | None:
    """The rule of an operation; its in-place form shares it, point-wise operations share one."""
    name: str = func._schema.name
    found = _rules.get(name) or _rules.get(name.removesuffix("_"))
    if found is None and torch.Tag.pointwise in func.tags:
        return _rules["aten::pointwise"]
    return found
