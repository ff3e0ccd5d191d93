"""One traced forward: every ATen operation passes by, and channel ids travel with the tensors.

Rules (`jstc.channels.rules`) say how the labels pass through an operation and which ids must be equal.
The trace runs under inference mode, where composite operations (linear, layer_norm, adaptive pooling)
arrive undivided, which is the level at which fvcore counts FLOPs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

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
)
from jstc.channels.trace.meta_shapes import infer
from jstc.channels.trace.state import TraceState

__all__ = ["run"]


def run(model: nn.Module, inputs: Sequence[Any], trace: TraceState) -> None:
    """Trace one forward of `model`, in eval mode; the channels of its outputs are frozen.

    What is found is in `trace.record`. Whatever the forward raises passes through; `trace` then
    knows the operation and the channels that met there.
    """
    for tensor in tensors_in(inputs):
        trace.put(tensor, tuple(np.full(n, INPUT if d == 1 else FIXED) for d, n in enumerate(tensor.shape)))
    modules = named_modules(model)
    names = {id(module): name for name, module in modules}
    hooks = (  # for all modules at once: a hook on each takes as long as the forward
        register_module_forward_pre_hook(lambda m, _a: trace.modules.append(names.get(id(m), ""))),
        register_module_forward_hook(lambda _m, _a, out: trace.leave(out), always_call=True),
    )
    kept = [(module, _own_state(module)) for _, module in modules]
    try:
        with torch.inference_mode(), _Tracer(trace, _device(model)):
            out = model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, before in kept:
            _restore(module, before)
    outputs = tensors_held(out)
    for tensor in outputs:
        for ids in trace.labels(tensor):
            trace.freeze(ids, "network output")
    trace.returned(outputs)


_TORCHS_OWN = frozenset(vars(nn.Module())) - {"_buffers"}


def _own_state(module: nn.Module) -> dict[str, Any]:
    """Attributes that the module's author made; a forward may keep something there (a cache of a bias)."""
    own = vars(module)
    found = {name: own[name] for name in own.keys() - _TORCHS_OWN}
    for name, value in found.items():
        if type(value) in (dict, list, set):
            found[name] = copy.copy(value)
    return found


def _restore(module: nn.Module, before: dict[str, Any]) -> None:
    own = vars(module)
    for name in own.keys() - _TORCHS_OWN - before.keys():
        del own[name]
    own.update(before)


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
            result = trace.follow(rule, call)
            found = result if isinstance(result, list) else [result]
        except Exception as error:
            found = trace.recover(call, error)
        trace.finish(call, found)
        return call.out

    def _keep_device(self, call: Call) -> None:
        """Tensors that the forward makes up lie where the network does.

        `with torch.device(...)` does the same, but sees every attribute of every tensor in Python.
        """
        if self._device.type == "cpu":
            return
        if call.func is _LIFT:
            call.args = (call.first.to(self._device),)
        elif call.kwargs.get("device") == _CPU and not (call.args and isinstance(call.args[0], Tensor)):
            call.kwargs = {**call.kwargs, "device": self._device}


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
