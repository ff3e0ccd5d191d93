"""Forwards that can be held: a network and its cut are led through the same calls, side by side.

Fitting layer after layer needs, at every layer, the inputs that the layers before it give once they are
fitted. Forwards from the start for each layer would take as many passes as there are layers; held at a layer
and let go on when it is fitted, one pass is enough. Each forward has a thread for it, of which one runs at a
time.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from jstc.errors import ChannelError

__all__ = ["Called", "Run", "Step", "Visit", "Walk", "live_bytes", "other_calls", "record", "require_alike"]

Run = Callable[[nn.Module], Any]
"""Runs a network once, on some batch of images."""

_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
for _n in (1, 2, 3):
    _ARGUMENTS[f"conv{_n}d"] = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    _ARGUMENTS[f"conv_transpose{_n}d"] = (
        *("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    )


@dataclass(frozen=True)
class Called:
    """One call as it was made, arguments by name."""

    name: str
    arguments: Mapping[str, Any]


def _bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Called | None:
    """The arguments of a convolution, linear layer or batch norm by their names; None for any other call."""
    name = getattr(function, "__name__", "")
    if name not in _ARGUMENTS:
        return None
    return Called(name, dict(zip(_ARGUMENTS[name], args, strict=False)) | dict(kwargs))


def _bounds(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[float, float] | None:
    """Bounds to which an activation cuts what it is given; None for any other call."""
    name = getattr(function, "__name__", "").rstrip("_")
    if name == "hardtanh":
        given = dict(zip(("input", "min_val", "max_val"), args, strict=False)) | dict(kwargs)
        return given.get("min_val", -1.0), given.get("max_val", 1.0)
    return {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}.get(name)


class _Numbered(TorchFunctionMode):
    """Calls `on_call` with the number of each call that makes a tensor, and gives back what that returns."""

    def __init__(self, on_call: Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._on_call, self._next = on_call, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number = self._next
        out = self._on_call(number, func, args, kwargs or {})
        if isinstance(out, Tensor):
            self._next += 1
        return out


# -- a forward on record -------------------------------------------------------------------------------------


@dataclass
class Step:
    """One call that made a tensor: which steps made its inputs, and which steps read its result.

    `called` is there for convolutions, linear layers and batch norms, without its input; `shapes` are those
    of its inputs, -1 in `inputs` stands for a tensor that no step has made.
    """

    name: str
    called: Called | None
    inputs: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    shape: torch.Size
    storage: int
    bytes: int
    keywords: frozenset[str]
    bounds: tuple[float, float] | None
    users: list[int] = field(default_factory=list)


def record(network: nn.Module, run: Run) -> list[Step]:
    """All calls of one forward that make a tensor, in order; `run` should be of one or two images."""
    steps: list[Step] = []
    alive: list[Tensor] = []  # so that no id is used again
    maker: dict[int, int] = {}

    def on_call(number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        shapes = tuple(tensor.shape for tensor in read)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            inputs = tuple(maker.get(id(tensor), -1) for tensor in read)
            for source in {i for i in inputs if i >= 0}:
                steps[source].users.append(number)
            storage = out.untyped_storage()
            steps.append(
                Step(
                    getattr(func, "__name__", ""),
                    _without_input(_bound(func, args, kwargs)),
                    inputs,
                    shapes,
                    out.shape,
                    storage.data_ptr(),
                    storage.nbytes(),
                    frozenset(kwargs),
                    _bounds(func, args, kwargs),
                )
            )
            alive.append(out)
            maker[id(out)] = number
        return out

    with torch.inference_mode(), _Numbered(on_call):
        run(network)
    return steps


def _without_input(called: Called | None) -> Called | None:
    """A call without its input, which nobody needs once it was made, and which takes memory."""
    if called is None:
        return None
    return Called(called.name, {key: value for key, value in called.arguments.items() if key != "input"})


def live_bytes(steps: Sequence[Step], keep: Mapping[int, int] | None = None) -> list[int]:
    """Bytes of results that are there while each step is made, its own among them.

    Each result is let go after its last use; those of the steps in `keep` at a step of their own at least.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    size: dict[int, int] = {}
    for number, step in enumerate(steps):
        first.setdefault(step.storage, number)
        end = max(number, *step.users, (keep or {}).get(number, 0), last.get(step.storage, 0))
        last[step.storage], size[step.storage] = end, step.bytes
    change = [0] * (len(steps) + 1)
    for storage, number in first.items():
        change[number] += size[storage]
        change[last[storage] + 1] -= size[storage]
    return list(itertools.accumulate(change[:-1]))


# -- a forward that is held ----------------------------------------------------------------------------------


class _Stopped(BaseException):
    """Ends the thread of a forward that nobody needs any more."""


@dataclass(frozen=True)
class Visit:
    """Where a walk is held: the call with its number, before it is made, or with its result."""

    number: int
    called: Called
    output: Tensor | None


class Walk:
    """One forward of `network` in a thread of its own, which `advance` leads from one of `stops` to the next.

    Held before the call itself, or `after` it, then with the result. Results of the steps in `keep` stay in
    `kept` until they are let go, at the stop that is given there.
    """

    def __init__(
        self, network: nn.Module, run: Run, *, stops: Collection[int], keep: Mapping[int, int], after: bool
    ) -> None:
        self._network, self._run, self._after = network, run, after
        self._stops, self._keep = frozenset(stops), dict(keep)
        self._go, self._held = threading.Semaphore(0), threading.Semaphore(0)
        self._visit: Visit | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.kept: dict[int, Tensor] = {}

    def advance(self) -> Visit | None:
        """Go on to the next stop; None at the end of the forward, whose errors are raised here."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        self._held.acquire()
        if self._error is not None:
            raise self._error
        return self._visit

    def let_go(self, stop: int) -> None:
        """Forget the results that were kept until that stop."""
        for number in [n for n in self.kept if self._keep[n] <= stop]:
            del self.kept[number]

    def stop(self) -> None:
        """End the forward where it is held."""
        if self._thread.is_alive():
            self._stopped = True
            self._go.release()
            self._thread.join()

    def _work(self) -> None:
        try:
            # Modes of torch belong to a thread.
            with torch.inference_mode(), _Numbered(self._on_call):
                self._run(self._network)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._visit = None
            self.kept.clear()
            self._held.release()

    def _on_call(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The number of a call that makes no tensor is that of the next one that does.
        called = _bound(func, args, kwargs) if number in self._stops else None
        if called is not None and not self._after:
            self._pause(Visit(number, called, None))
        out = func(*args, **kwargs)
        if called is not None and self._after:
            self._pause(Visit(number, called, out))
        if number in self._keep and isinstance(out, Tensor):
            self.kept[number] = out
        return out

    def _pause(self, visit: Visit) -> None:
        self._visit = visit
        self._held.release()
        self._go.acquire()
        if self._stopped:
            raise _Stopped
        self._visit = None


def require_alike(visit: Visit | None, step: Step, number: int) -> Visit:
    """Raise `ChannelError` unless a walk is held at the call that is on record as `step`."""
    if visit is None or visit.number != number or visit.called.name != step.name:
        raise other_calls()
    return visit


def other_calls() -> ChannelError:
    """The error of a forward that is not as it was on record."""
    return ChannelError(
        "the forward makes other calls for the cut network, or for other images, than on record: "
        "its layers cannot be fitted one after the other"
    )
