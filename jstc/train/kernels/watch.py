"""The self-test of the kernels: a call that this machine computes wrong is computed in another form.

Libraries choose among many kernels by shape, number format, layout and processor, and some of these are
wrong: gradients that are off by more than their size, or that hold what was left in memory. So the first time
that a network is called, each convolution and linear layer in it, of a shape not seen before, is judged
(`judge.py`) before it is computed. What fails is computed in the next form that passes, then and in every
later call. On the CPU only. What was found is kept in the cache of this machine's user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from jstc.train.kernels import judge
from jstc.train.kernels.calls import Call, Operands, call_of, run
from jstc.train.kernels.judge import Setting, Verdict, judged, read, save

__all__ = ["Fault", "begin", "checked", "document", "faulty", "reset", "say", "say_uncompiled", "tried"]

_GARBAGE = 1e6
"""Errors of so many times a value's size are no errors of arithmetic."""


@dataclass(frozen=True)
class Fault:
    """A call of this process's networks that is computed in another form, with the layers that make it."""

    call: Call
    verdict: Verdict
    layers: set[str] = field(default_factory=set, compare=False)


@dataclass
class _Process:
    """Everything that this process knows: verdicts by setting, faults met, networks whose calls are known."""

    verdicts: dict[Setting, dict[str, Verdict]] = field(default_factory=dict)
    faults: dict[tuple[Setting, str], Fault] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    run: Path | None = None
    networks: WeakKeyDictionary[nn.Module, dict[Any, bool]] = field(default_factory=WeakKeyDictionary)


_process = _Process()


def reset() -> None:
    """Forget everything but what is on file."""
    globals()["_process"] = _Process()


def begin(run: Path) -> None:
    """A stage of the run in the directory `run` begins: what is met and said from here on is its own."""
    if _process.run != run:
        _process.run, _process.said = run, set()
    _process.faults.clear()
    _process.networks = WeakKeyDictionary()


# While a network is called


def checked(
    network: nn.Module, images: torch.Tensor, *, batch: int | None = None
) -> AbstractContextManager[Any]:
    """Context for calling `network` on `images` [N, ...], inside the autocast that it is called in.

    A call that nobody has judged is, with `batch` images at a time (None: as many as there are here). Does
    nothing where all calls that the network makes are known to be right. Does nothing for a compiled network,
    either: whoever compiles asks `faulty` first.
    """
    if images.device.type != "cpu" or _is_compiled(network):
        return nullcontext()
    low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
    setting = Setting.here()
    form = (setting, low, images.is_contiguous(), tuple(images.shape[1:]), network.training)
    known = _process.networks.setdefault(network, {})
    if known.get(form) is False:
        return nullcontext()
    return _watched(_Watch(network, setting, batch), known, form)


def tried(network: nn.Module, images: torch.Tensor, *, batch: int) -> tuple[int, list[Fault]]:
    """Number of kinds of calls that `network` makes on `images`, and the wrong ones, by `batch` images."""
    setting = Setting.here()
    watch = _Watch(network, setting, batch)
    with watch:
        network(images)
    watch.keep()
    return len(watch.seen), [_process.faults[setting, key] for key in sorted(watch.met)]


def faulty(network: nn.Module) -> bool:
    """Whether a call that `network` has made so far is computed in another form."""
    return any(_process.networks.get(network, {}).values())


def _is_compiled(network: nn.Module) -> bool:
    return hasattr(getattr(network, "module", network), "_orig_mod")  # inside of several processes' wrapper


@contextmanager
def _watched(watch: _Watch, known: dict[Any, bool], form: Any) -> Iterator[None]:
    try:
        with watch:
            yield
    finally:
        watch.keep()
    known[form] = bool(watch.met)


class _Watch(TorchFunctionMode):
    """Sees the calls of a network: judges those that nobody has judged, and computes wrong ones right."""

    def __init__(self, network: nn.Module, setting: Setting, batch: int | None) -> None:
        super().__init__()
        self._batch = batch
        self._layers = {id(tensor): name for name, tensor in network.named_parameters()}
        self._setting, self._verdicts = setting, _verdicts(setting)
        self._before = len(self._verdicts)
        self.seen: set[str] = set()
        self.met: set[str] = set()

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Result of `func`, in another form where torch's own would be wrong."""
        found = call_of(func, args, kwargs or {})
        if found is None:
            return func(*args, **(kwargs or {}))
        call, operands = found
        self.seen.add(call.key)
        verdict = self._verdicts.get(call.key)
        if verdict is None:
            verdict = self._verdicts[call.key] = judged(call, self._batch or len(operands[0]))
        if verdict.form is None:
            return func(*args, **(kwargs or {}))
        self._meet(call, verdict, operands)
        return run(call, verdict.form, operands)

    def _meet(self, call: Call, verdict: Verdict, operands: Operands) -> None:
        self.met.add(call.key)
        fault = _process.faults.setdefault((self._setting, call.key), Fault(call, verdict))
        name = self._layers.get(id(operands[1]), "")
        fault.layers.update([_layer(name)] if name else [])

    def keep(self) -> None:
        """Write what is new to the cache."""
        if len(self._verdicts) > self._before:
            save(self._setting, self._verdicts)


def _layer(parameter: str) -> str:
    """Name of the layer of a parameter, without those of the wrappers around the network."""
    return parameter.removeprefix("module.").removeprefix("network.").removesuffix(".weight")


def _verdicts(setting: Setting) -> dict[str, Verdict]:
    if setting not in _process.verdicts:
        _process.verdicts[setting] = read(setting)
    return _process.verdicts[setting]


# What people are told


def say(tell: Callable[[str], None]) -> None:
    """Tell of the faults that were met since the last time: once for each layer."""
    new = [fault for fault in _process.faults.values() if not _names(fault) <= _process.said]
    if not new:
        return
    for fault in new:
        _process.said |= _names(fault)
    tell(_told(new))


def say_uncompiled(key: str, tell: Callable[[str], None]) -> None:
    """Tell, once in a run, that the recipe key `key` has no effect where a kernel is wrong."""
    say(tell)
    if key not in _process.said:
        _process.said.add(key)
        tell(f"{key} is left off: a compiled network would call the kernels that are wrong")


def _names(fault: Fault) -> set[str]:
    return {f"{name} {fault.call.dtype}" for name in fault.layers or {str(fault.call)}}


def _told(faults: list[Fault]) -> str:
    layers = sorted({name for fault in faults for name in fault.layers or {f"a {fault.call}"}})
    first, forms = faults[0], dict.fromkeys(str(fault.verdict.form) for fault in faults)
    part, size = max(first.verdict.wrong.items(), key=lambda item: item[1])
    wrong = "two runs differ" if part == judge.REPEATED else f"the {part} is {_wrong(size)}"
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return (
        f"torch computes wrong on this processor, in {first.call.dtype}: {', '.join(layers[:3])}{more} "
        f"({first.call}: {wrong}); computed in {' or '.join(forms)} instead, which takes longer"
    )


def _wrong(size: float) -> str:
    return f"off by {size:.2g} times its size" if size < _GARBAGE else "garbage"


def document() -> dict[str, Any]:
    """The faults met so far as JSON, for the result of a stage; empty without any."""
    rows = [
        {
            "layers": sorted(fault.layers),
            "call": str(fault.call),
            "dtype": fault.call.dtype,
            "wrong": sorted(fault.verdict.wrong),
            "form": str(fault.verdict.form),
        }
        for fault in _process.faults.values()
    ]
    return {"kernels": rows} if rows else {}
