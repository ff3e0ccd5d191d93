"""Copies of modules, as `copy.deepcopy` makes them, in a fraction of its time.

An analysis copies the network for every cut that it tries, and a network has hundreds of modules with
dozens of attributes each, almost all of them numbers and empty containers.
"""

from __future__ import annotations

import copy
import copyreg
import weakref
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

__all__ = ["copied"]

Memo = dict[int, Any]

_ATOMIC = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, range, type, property),
        *(FunctionType, BuiltinFunctionType, weakref.ref, torch.dtype, torch.device),
    }
)
_FLAT = (tuple, list, set)
_OWN = vars(nn.Module()).keys()
_SETSTATE = nn.Module.__setstate__
_USUAL: dict[str, Any] = {
    **{name: getattr(object, name) for name in ("__reduce_ex__", "__reduce__", "__new__")},
    **{name: getattr(nn.Module, name) for name in ("__getstate__", "__getattr__")},
}
_known: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def copied(module: nn.Module, memo: Memo) -> Any:
    """What `copy.deepcopy(module, memo)` returns, `memo` being filled likewise.

    `memo` gives, by `id()`, what stands for an object in the copy. A module of a class that says itself how
    it is to be copied is left to `copy.deepcopy`.
    """
    if id(module) in memo:
        return memo[id(module)]
    kind = type(module)
    if not _ordinary(kind) or "__deepcopy__" in vars(module):
        return copy.deepcopy(module, memo)
    new = memo[id(module)] = kind.__new__(kind)  # before its parts, which may refer to it
    state = dict(module.__getstate__())  # type: ignore[no-untyped-call]
    for name, value in state.items():
        if type(value) is OrderedDict and not value and name in _OWN:  # most often: no hooks
            state[name] = OrderedDict()
        elif type(value) not in _ATOMIC:
            state[name] = _value(value, memo)
    if kind.__setstate__ is _SETSTATE and state.keys() >= _OWN:  # nothing that an old pickle might lack
        vars(new).update(state)
    else:
        new.__setstate__(state)  # type: ignore[no-untyped-call]
    return new


def _ordinary(kind: type) -> bool:
    """Does the class leave copying to Python and `nn.Module`?"""
    known = _known.get(kind)
    if known is None:
        usual = all(getattr(kind, name) is method for name, method in _USUAL.items())
        slots = any(vars(base).get("__slots__") for base in kind.__mro__)
        known = (
            usual and not slots and not hasattr(kind, "__deepcopy__") and kind not in copyreg.dispatch_table
        )
        _known[kind] = known
    return known


def _value(value: Any, memo: Memo) -> Any:
    key, kind = id(value), type(value)
    if key in memo:
        return memo[key]
    if kind is dict:
        return _dict(value, memo)
    if isinstance(value, nn.Module):
        return copied(value, memo)
    if kind in _FLAT and all(type(item) in _ATOMIC for item in value):
        memo[key] = new = kind(value)
        return new
    return copy.deepcopy(value, memo)


def _dict(value: dict[Any, Any], memo: Memo) -> dict[Any, Any]:
    new: dict[Any, Any] = {}
    memo[id(value)] = new
    for name, item in value.items():
        key = name if type(name) in _ATOMIC else _value(name, memo)
        new[key] = item if type(item) in _ATOMIC else _value(item, memo)
    return new
