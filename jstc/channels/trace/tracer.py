"""One traced forward: every ATen operation passes by, and channel ids travel with the tensors.

Rules (`jstc.channels.rules`) say how the labels pass through an operation and which ids must be equal.
The trace runs under inference mode, where composite operations (linear, layer_norm, adaptive pooling)
arrive undivided, which is the level at which fvcore counts FLOPs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from jstc.channels.rules import find
from jstc.channels.trace.ids import (
    FIXED,
    INPUT,
    Call,
    Labels,
    named_modules,
    named_tensors,
    operation_name,
    tensors_held,
    tensors_in,
    training,
)
from jstc.channels.trace.memory import State, unsettle
from jstc.channels.trace.meta_shapes import infer
from jstc.channels.trace.state import TraceState
from jstc.channels.trace.values import same_random_numbers
from jstc.errors import InputError

__all__ = ["Program", "arguments", "run"]


@dataclass(frozen=True)
class Program:
    """Forwards that show a network: its own on an example, and perhaps one of what only training does.

    `args` and `kwargs` are those of the forward of the network, or of its submodule `part`. `outputs` picks
    from its result what must keep its width. `also` runs in training mode, is given the network, and what it
    returns keeps its width, too.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    part: str = ""
    outputs: Callable[[Any], Any] | None = None
    also: Callable[[nn.Module], Any] | None = None

    def moved(self, move: Callable[[Tensor], Tensor]) -> Program:
        """The program with every tensor of the example replaced."""
        args, kwargs = tree_map_only(Tensor, move, (self.args, self.kwargs))
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def first(self, model: nn.Module) -> Any:
        """The result of the first forward."""
        return model.get_submodule(self.part)(*self.args, **self.kwargs)

    def unsettle(self, model: nn.Module) -> None:
        """Run the first forward on a batch of twice the size, if the modules hold what one left there."""

        def run_twice_as_large() -> Any:
            return self.moved(lambda x: torch.cat([x, x]) if x.dim() else x).first(model)

        with same_random_numbers(), _device(model):
            unsettle(model, run_twice_as_large)


def arguments(example: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward that an example stands for.

    A tuple holds the positional ones, a dict those by keyword, `(tuple, dict)` both; anything else is the
    only one, lists included. Raises `InputError` for an example without any tensor.
    """
    args: tuple[Any, ...] = (example,)
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        args, kwargs = (), dict(example)
    elif isinstance(example, tuple):
        both = len(example) == 2 and isinstance(example[0], tuple) and isinstance(example[1], Mapping)
        args, kwargs = (example[0], dict(example[1])) if both else (example, {})
    if not all(isinstance(name, str) for name in kwargs):
        raise InputError("example: a dict holds the inputs by keyword, so its keys must be strings")
    if not tensors_in((args, kwargs)):
        raise InputError(
            f"example: there is no tensor in it, it is of type {type(example).__name__}",
            "give what the network is called with: a tensor, a tuple of positional inputs, a dict of inputs "
            "by keyword, or (tuple, dict); lists and dicts of tensors may be among them",
        )
    return args, kwargs


def run(model: nn.Module, program: Program, trace: TraceState) -> None:
    """Trace the forwards of a program: the first in eval mode, `also` in training mode.

    What is found is in `trace.record`. Whatever a forward raises passes through; `trace` then
    knows the operation and the channels that met there.
    """
    for tensor in tensors_in((program.args, program.kwargs)):
        trace.put(tensor, tuple(np.full(n, INPUT if d == 1 else FIXED) for d, n in enumerate(tensor.shape)))
    with _watched(model, trace):
        out = program.first(model)
        needed = out if program.outputs is None else program.outputs(out)
    _stay(trace, needed, "network output")
    trace.returned(tensors_held(out))
    if program.also is not None:
        trace.training()
        with training(model), _watched(model, trace):
            out = program.also(model)
        _stay(trace, out, "output in training")


def _stay(trace: TraceState, out: object, reason: str) -> None:
    for tensor in tensors_held(out):
        for ids in trace.labels(tensor):
            trace.freeze(ids, reason)


@contextmanager
def _watched(model: nn.Module, trace: TraceState) -> Iterator[None]:
    """Every operation passes by `trace`; afterwards the modules have the attributes that they had before."""
    modules = named_modules(model)
    names = {id(module): name for name, module in modules}
    hooks = (  # for all modules at once: a hook on each takes as long as the forward
        register_module_forward_pre_hook(lambda m, _a: trace.modules.append(names.get(id(m), ""))),
        register_module_forward_hook(lambda _m, _a, out: trace.leave(out), always_call=True),
    )
    state = State(model)
    try:
        device = _device(model)
        with same_random_numbers(), _numbers_seen(device), torch.inference_mode(), _Tracer(trace, device):
            yield
        trace.record.kept += state.changed()
    finally:
        for hook in hooks:
            hook.remove()
        state.restore()


@contextmanager
def _numbers_seen(device: torch.device) -> Iterator[None]:
    """Let the tracer see numbers of which the forward makes a tensor on the meta device, where none is left.

    `torch.tensor` makes it on the CPU meanwhile, and the tracer moves it.
    """
    make = torch.tensor

    def made(data: Any, *args: Any, **kwargs: Any) -> Tensor:
        on_meta = kwargs.get("device") is not None and torch.device(kwargs["device"]) == device
        return make(
            data, *args, **(kwargs | {"device": _CPU} if on_meta and not tensors_in(data) else kwargs)
        )

    if device.type == "meta":
        torch.tensor = made
    try:
        yield
    finally:
        torch.tensor = make


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, trace: TraceState, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trace, self._device = trace, device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would wrap `__torch_dispatch__` against its compiler, and import that to do so.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = Call(func, args, kwargs or {})
        self._keep_device(call)
        rule = find(func)
        if rule is None:
            with self:
                out = func.decompose(*call.args, **call.kwargs)
            if out is not NotImplemented:
                return out
            rule = _unknown
        trace = self._trace
        trace.begin(call)
        try:
            out = infer(call)
            call.out = func(*call.args, **call.kwargs) if out is None else out
            trace.lead(call)
            result = trace.follow(rule, call)
            found = result if isinstance(result, list) else [result]
        except Exception as error:
            found = trace.recover(call, error)
        trace.finish(call, found)
        return call.out

    def _keep_device(self, call: Call) -> None:
        """Tensors that the forward makes up lie where the network does, and those of a batch join it there.

        In the first forward none is a batch's: there a layer that is not registered is to fail.

        `with torch.device(...)` does the former, but sees every attribute of every tensor in Python.
        """
        foreign = self._trace.trains and {t.device.type for t in call.tensors()} > {self._device.type}
        if foreign:
            call.args, call.kwargs = tree_map_only(Tensor, self._here, (call.args, call.kwargs))
        if self._device.type == "cpu":
            return
        if call.func is _LIFT:
            call.numbers = call.first
            call.args = (call.first.to(self._device),)
        elif call.kwargs.get("device") == _CPU and not (call.args and isinstance(call.args[0], Tensor)):
            call.kwargs = {**call.kwargs, "device": self._device}

    def _here(self, tensor: Tensor) -> Tensor:
        """A tensor from outside, as a target, where the network is; on the meta device it has no values."""
        if tensor.device.type == self._device.type or tensor.is_meta:
            return tensor
        with torch.utils._python_dispatch._disable_current_modes():
            moved = tensor.to(self._device)
        self._trace.put(moved, self._trace.raw(tensor))
        return moved


_CPU, _LIFT = torch.device("cpu"), torch.ops.aten.lift_fresh.default


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for _, tensor in named_tensors(model)), _CPU)


def _unknown(trace: TraceState, call: Call) -> list[Labels]:
    """An operation without a rule: whatever meets it stays whole."""
    name, record = operation_name(call.func), trace.record
    record.unknown[name] = record.unknown.get(name, 0) + 1
    where = f" in {trace.module}" if trace.module else ""
    for tensor in call.tensors():
        for ids in trace.labels(tensor):
            trace.freeze(ids, f"operation {name}{where} has no rule")
    return [tuple(np.zeros(size, np.int64) for size in t.shape) for t in tensors_in(call.out)]
