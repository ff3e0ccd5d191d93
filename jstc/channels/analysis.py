"""`analyse` a network once: trace it, group its channels, prove what can be cut.

The steps, each in a file of its own: a forward on the meta device with labelled channels (`trace`, `rules`),
connected channels as groups (`groups`), trial cuts that are traced again (`proof`, `replay`). What comes out
is a `ChannelMap`.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from jstc.channels.channel_map import ChannelMap
from jstc.channels.cutting.attention import adapt
from jstc.channels.groups import Connected, Frozen, require_matches
from jstc.channels.operations import executed
from jstc.channels.proof import Proved, prove
from jstc.channels.trace.ids import Recorder, named_tensors
from jstc.channels.trace.memory import duplicate, in_graph
from jstc.channels.trace.state import TraceState
from jstc.channels.trace.tracer import Program, arguments, run
from jstc.errors import ChannelError, InputError

__all__ = ["analyse", "require_plain"]


def analyse(
    model: nn.Module,
    example: Any,
    *,
    ignore: Sequence[str] = (),
    part: str | None = None,
    outputs: Callable[[Any], Any] | None = None,
    also: Callable[[nn.Module], Any] | None = None,
) -> ChannelMap:
    """Find and prove the channel groups of a network; the model is left untouched.

    `example` is what the network is called with: a tensor, a tuple of positional inputs, a dict of inputs by
    keyword, or `(tuple, dict)`; lists and dicts of tensors may be among them. FLOPs are counted for one
    example: give a batch of one. `ignore` holds patterns of module names (`layer4`: the module and all inside
    it) whose channels stay whole. Raises `ChannelError` when the forward itself fails, `InputError` for a
    pattern that matches nothing.

    `outputs` picks from what the forward returns that which somebody needs; the rest may become narrower.

    `also` is a second forward of what only training does: `lambda network: network.loss(batch)`. It is given
    a copy of the network, in training mode. What it uses can be cut and what it requires is kept, as in the
    first; it is in no cost. What it returns, if it is more than a loss, keeps its width.

    `part` names a submodule (`backbone`) that alone is cut, with an `example` for it: what lies before and
    behind it stays as it is, so the rest of the forward may do what can't be traced. FLOPs are those of the
    part; everything else is as for the whole network, which is sliced and mapped back, and given to `also`.
    """
    require_plain(model)
    require_matches(ignore, (name for name, _ in model.named_parameters(remove_duplicate=False)))
    if part is not None:
        _require_part(model, part)
    args, kwargs = arguments(example)
    program = Program(args, kwargs, part or "", outputs, also)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    with _uncompiled():
        try:
            channels, record = _best(*_replica(model, program, "meta"), ignore, shapes)
        except ChannelError:
            # Some forwards need values (data-dependent control flow): run those for real.
            channels, record = _best(*_replica(model, program, "cpu"), ignore, shapes)
    if part is None:
        channels.frozen += tuple(_unused(record, shapes))
    return channels


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Functions and forwards under `@torch.compile` are run as they are written, so that operations show."""
    # Whoever has compiled something has imported this; without it nothing need be done, or waited for.
    return (
        torch.compiler.set_stance("force_eager")
        if "torch._dynamo" in sys.modules
        else contextlib.nullcontext()
    )


def _best(
    model: nn.Module,
    program: Program,
    left: _Left,
    ignore: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[ChannelMap, Recorder]:
    """The channels of a network. Attention that can lose no heads is tried with narrower ones."""
    proved, record = _analyse(model, program, left, ignore)
    channels = ChannelMap(proved, record, shapes)
    narrow = proved.stuck & record.headed
    if narrow:
        proved, again = _analyse(model, program, left, ignore, narrow)
        other = ChannelMap(proved, again, shapes)
        if other.coverage > channels.coverage:
            return other, again
    return channels, record


def _analyse(
    model: nn.Module, program: Program, left: _Left, ignore: Sequence[str], narrow: Collection[str] = ()
) -> tuple[Proved, Recorder]:
    """Groups and record of a network's forwards; in the modules called `narrow` all heads stay."""
    trace = TraceState(model, narrow=narrow)
    for name, reason in _outside(model, program.part):
        for ids in trace.params[name]:
            trace.freeze(ids, reason)
    try:
        run(model, program, trace)
    except Exception as error:
        raise ChannelError(f"the network's forward failed at {trace.last_op}: {error}") from error
    trace.settle()
    record = trace.record
    _require_made_anew(record, left)
    connected = Connected(record, trace.params, ignore=ignore)
    proved = prove(model, program, connected, trace)
    record.executed = executed(record.operations, trace)
    record.operations.clear()  # they hold every activation
    return proved, record


def _moved(tensor: Tensor, device: str) -> Tensor:
    if tensor.is_meta and device != "meta":  # there are no values to move; zeros are as good as any
        return torch.zeros_like(tensor, device=device)
    return tensor.detach().to(device, copy=True)


_Left = Sequence[tuple[str, str, Tensor]]
"""What forwards with gradients have left in attributes: module, attribute, and the tensor of the replica."""


def _replica(model: nn.Module, program: Program, device: str) -> tuple[nn.Module, Program, _Left]:
    """The network on another device without copying its tensors first, in eval mode, and its inputs."""
    memo: dict[int, Any] = {}
    for _, tensor in named_tensors(model):
        there = _moved(tensor, device)
        memo[id(tensor)] = (
            nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there
        )
    moved = program.moved(lambda x: _moved(x, device))
    try:
        left = []
        for path, name, tensor in in_graph(model):
            there = memo.setdefault(id(tensor), _moved(tensor, device))
            left.append((path, name, there))
        replica = duplicate(model, memo).eval()
    except Exception as error:  # whatever its attributes raise: a lock, an open file, an iterator
        raise ChannelError(
            f"the network can't be copied: {error}",
            "look for a lock, an open file, a generator or the like among the attributes of its modules",
        ) from error
    adapt(replica)
    moved.unsettle(replica)
    return replica, moved, left


def _unused(record: Recorder, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Frozen]:
    """Dimensions of the parameters that the forward never touches."""
    named: set[tuple[str, int]] = set()
    for name, shape in shapes.items():
        layer = name.rpartition(".")[0] or name
        for dim, channels in enumerate(shape[:2]) if name not in record.used else ():
            if (layer, dim) not in named:
                named.add((layer, dim))
                yield Frozen(layer, dim, channels, "not used by the forward")


def require_plain(model: nn.Module) -> None:
    """Raise `ChannelError` for networks that cannot be copied or cut as they are.

    Scripted, compiled and distributed ones, lazy ones, and those with weights that a hook computes.
    """
    for name, module in model.named_modules():
        where = f"'{name}'" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ChannelError(f"{where} is a torch.jit module: give the nn.Module that it was made from")
        # Its class is torch._dynamo's, and importing that takes seconds.
        if type(module).__name__ == "OptimizedModule":
            raise ChannelError(
                f"{where} was compiled by torch.compile: give the module itself, and compile what is cut"
            )
        if isinstance(module, nn.DataParallel) or type(module).__name__ == "DistributedDataParallel":
            raise ChannelError(
                f"{where} was wrapped by {type(module).__name__}: give its .module, and wrap what is cut"
            )
        _require_no_hook(module, where)
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(parameter):
            raise ChannelError(f"'{name}' is lazy and has no shape yet: run the network once on an example")


_ADVICE = "let the forward compute it, or torch.nn.utils.parametrize"


def _require_no_hook(layer: nn.Module, where: str) -> None:
    """Raise `ChannelError` for a layer with a tensor that is computed before each forward, and no parameter.

    It cannot be copied once it was computed, and what is cut of it comes back with the next forward.
    """
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            form = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
            raise ChannelError(
                f"{where} computes its {hook.name} in a hook, torch.nn.utils.{form}",
                f"torch.nn.utils.parametrizations.{form} does so without one, "
                f"torch.nn.utils.remove_{form}(layer, '{hook.name}') makes it a plain parameter",
            )
        if isinstance(hook, prune.BasePruningMethod):
            name = hook._tensor_name
            raise ChannelError(
                f"{where} masks its {name} in a hook, torch.nn.utils.prune",
                f"torch.nn.utils.prune.remove(layer, '{name}') makes the masked {name} a plain parameter",
            )
    if not type(layer).__module__.startswith("torch."):
        return  # its forward may keep what it has made
    computed = [name for name, x in vars(layer).items() if isinstance(x, Tensor) and not x.is_leaf]
    if computed or (isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and not hasattr(layer, "weight")):
        name = computed[0] if computed else "weight"
        raise ChannelError(f"{where} keeps a tensor that was computed from its parameters, '{name}'", _ADVICE)


def _require_made_anew(record: Recorder, left: _Left) -> None:
    """Raise `ChannelError` where a forward uses what was computed from parameters before it, and keeps it."""
    used = {id(tensor) for operation in record.operations for tensor in operation.call.tensors()}
    made = {(kept.module, kept.name) for kept in record.kept}
    for path, name, tensor in left:
        if id(tensor) in used and (path, name) not in made:
            where = f"'{path}'" if path else "the network"
            text = f"{where} keeps a tensor that was computed from its parameters, '{name}'"
            raise ChannelError(text, _ADVICE)


# -- a part of a network, such as a detector's backbone ------------------------------------------------


def _require_part(model: nn.Module, part: str) -> None:
    """Raise `InputError`, with near names, when there is no such submodule."""
    names = [name for name, _ in model.named_modules() if name]
    if part not in names:
        near = difflib.get_close_matches(part, names, n=3, cutoff=0.5) or names[:3]
        raise InputError(f"part: the network has no module '{part}'", f"there are such as {', '.join(near)}")


def _outside(model: nn.Module, part: str) -> Iterator[tuple[str, str]]:
    """Tensors that are not the part's alone and so can't be cut, by their first names, with the reason."""
    places: dict[int, list[str]] = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        places.setdefault(id(tensor), []).append(name)
    for names in places.values() if part else ():
        inside = [name.startswith(f"{part}.") for name in names]
        if not all(inside):
            yield names[0], "shared with a layer outside the part" if any(inside) else "outside the part"
