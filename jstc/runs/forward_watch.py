"""What one forward does beside its answer: what it draws at random, calls from outside, and ends with.

Every operation and every call of a module passes by, and with it the line of the user's code that made it.
"""

from __future__ import annotations

import random
import sys
import traceback
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from jstc.channels.trace.ids import tensors_in
from jstc.errors import JstcError
from jstc.train import seeds

__all__ = ["Watch", "failure", "outside", "randomness_kept", "watching"]

_LIBRARIES = tuple(str(Path(file).parent) for file in (torch.__file__, np.__file__, Path(__file__).parent))
_PROBABILITIES = {
    "softmax": "a softmax",
    "_softmax": "a softmax",
    "sigmoid": "a sigmoid",
    "hardsigmoid": "a sigmoid",
}
_TORCHS_OWN = frozenset(vars(nn.Module()))
_READS = frozenset(("_local_scalar_dense", "item", "is_nonzero", "equal"))
_SAME_VALUES = frozenset(
    ("view", "reshape", "flatten", "squeeze", "unsqueeze", "clone", "contiguous", "to", "_to_copy", "detach")
)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees a forward of `network`.

    `drawn`: the random operations, as `dropout in line 30 of net.py`, in order and each once; `read`: where
    values of tensors become Python's. `foreign`: the parameters, and `called` the modules with tensors of
    their own, that the forward uses and the network does not have.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn: dict[str, None] = {}
        self.read: dict[str, None] = {}
        self.foreign: dict[int, Tensor] = {}
        self.called: dict[int, nn.Module] = {}
        self._modules = {id(module) for module in network.modules()}
        self._owned = {_storage(tensor) for tensor in network.parameters()}
        self._ends: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler to wrap what is below

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = tensors_in((args, kwargs or {}))
        for tensor in found:
            if tensor.requires_grad and tensor.is_leaf and _storage(tensor) not in self._owned:
                self.foreign.setdefault(id(tensor), tensor)
        if torch.Tag.nondeterministic_seeded in func.tags and not _draws_nothing(func, args, kwargs or {}):
            self.drawn.setdefault(f"{_name(func)} {_place(sys._getframe())}".strip())
        if _name(func) in _READS:
            self.read.setdefault(_place(sys._getframe()))
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            end = _PROBABILITIES.get(_name(func))
            if end is None and _name(func) in _SAME_VALUES:
                end = self.end(found[0]) if found else None
            if end is not None:
                self._ends[id(out)] = weakref.ref(out), end
        return out

    def end(self, scores: Tensor) -> str | None:
        """The operation that made probabilities of `scores`, `a softmax` say; None for any other."""
        known = self._ends.get(id(scores))
        return known[1] if known is not None and known[0]() is scores else None

    def enter(self, module: nn.Module) -> None:
        """A module is called."""
        if id(module) not in self._modules and _has_tensors(module):
            self.called.setdefault(id(module), module)


def _name(func: Any) -> str:
    name: str = func._schema.name.split("::")[1]
    return name


def _storage(tensor: Tensor) -> int:
    """The memory of a tensor, which its views share: in inference mode these are leaves as it is."""
    return tensor.untyped_storage().data_ptr()


def _draws_nothing(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation that has dropout inside is told to leave it out."""
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    given = named | kwargs
    if given.get("train") is False or given.get("training") is False:
        return True
    return any(given.get(name) == 0 for name in ("p", "dropout_p", "dropout")) or (
        "attention" in _name(func) and "dropout_p" not in given  # its default is 0
    )


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


@contextmanager
def watching(network: nn.Module) -> Iterator[Watch]:
    """A block in which a forward of `network` is seen."""
    watch = Watch(network)
    hook = register_module_forward_pre_hook(lambda module, _args: watch.enter(module))
    try:
        with watch:
            yield watch
    finally:
        hook.remove()


# -- where something is in the user's code ------------------------------------------------------------------


def _place(frame: FrameType | None) -> str:
    """`in line 30 of net.py`: the nearest line that is neither torch's nor ours; empty without one."""
    while frame is not None:
        if _is_user(frame.f_code.co_filename):
            return f"in line {frame.f_lineno} of {Path(frame.f_code.co_filename).name}"
        frame = frame.f_back
    return ""


def _is_user(file: str) -> bool:
    return not file.startswith((*_LIBRARIES, "<"))


def failure(error: BaseException) -> str:
    """What was raised, in one line: `TypeError: no such thing, in line 30 of net.py`."""
    if isinstance(error, JstcError):
        return error.problem
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_user(frame.filename)]
    return f"{text}, in line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else text


# -- what a network uses and does not have ------------------------------------------------------------------


def outside(network: nn.Module, watch: Watch) -> list[str]:
    """Names of what the forward used and the network does not have: places in its attributes, or classes."""
    strange = set(watch.foreign) | {
        id(tensor) for module in watch.called.values() for tensor in (*module.parameters(), *module.buffers())
    }
    if not strange:
        return []
    found = [
        f"{name}.{place}".removeprefix(".")
        for name, module in network.named_modules()
        for place in _places(vars(module), strange)
    ]
    if found:
        return found
    # Neither in the network's attributes: made in the forward, or the file's own.
    classes = [f"a {type(module).__name__}" for module in watch.called.values()]
    shapes = [f"a parameter {list(tensor.shape)}" for tensor in watch.foreign.values()]
    return list(dict.fromkeys(classes or shapes))


def _places(attributes: dict[str, Any], strange: Iterable[int]) -> Iterator[str]:
    for name, value in attributes.items():
        if name not in _TORCHS_OWN and isinstance(value, list | tuple | dict):
            yield from _inside(name, value, set(strange), depth=3)


def _inside(place: str, value: object, strange: set[int], *, depth: int) -> Iterator[str]:
    """Places under `place` that hold one of the tensors, or a module with one."""
    if isinstance(value, nn.Module):
        if strange & {id(tensor) for tensor in (*value.parameters(), *value.buffers())}:
            yield f"{place} ({type(value).__name__})"
    elif isinstance(value, Tensor):
        if id(value) in strange:
            yield place
    elif isinstance(value, list | tuple | dict) and depth:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _inside(f"{place}[{key!r}]", inner, strange, depth=depth - 1)


# -- random numbers -----------------------------------------------------------------------------------------


@contextmanager
def randomness_kept() -> Iterator[list[str]]:
    """A block after which random states are what they were; those used, beside torch's, are listed."""
    used: list[str] = []
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    with seeds.isolated():
        try:
            yield used
        finally:
            if random.getstate() != python:
                used.append("Python's random")
            now = np.random.get_state(legacy=False)
            if str(now) != str(numpy):
                used.append("numpy.random")
            random.setstate(python)
            np.random.set_state(numpy)
