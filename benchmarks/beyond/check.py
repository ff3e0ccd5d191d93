"""One network through everything that jstc says of any network, with its own inputs, results and loss."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import jstc
from benchmarks.beyond.case import Case, Inputs
from benchmarks.zoo.names import randomise
from benchmarks.zoo.record import Record, message
from jstc.channels import ChannelMap
from jstc.channels.budget import WidthBounds, smallest
from jstc.errors import JstcError
from jstc.export.any_network import Exported
from jstc.plan import Plan
from jstc.runs.stages.train import count

__all__ = ["STAGES", "CheckError", "check"]

STAGES = ("train", "counts", "onnx", "search", "masked")
"""The checks that follow the analysis and the cut, in their order."""
SHARE = 0.5
_MARGIN = 0.01  # where half the FLOPs cannot be reached: this much above the smallest share
_ROUNDS = 2
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_SHOWS = 1e-6  # a mask that changes the results by less than this share would prove nothing


class CheckError(Exception):
    """What was found is not what should be."""


class _Picked(nn.Module):
    """A network that returns what its user picks."""

    def __init__(self, network: nn.Module, case: Case) -> None:
        super().__init__()
        self.network, self._pick = network, case.outputs

    def forward(self, *inputs: Any) -> Any:
        found = self.network(*inputs)
        return found if self._pick is None else self._pick(found)


def check(record: Record, case: Case, only: Sequence[str] = STAGES) -> None:
    """Put everything found into `record`. The network is spent: float64 and masked at the end."""
    case.network.eval()
    randomise(case.network)
    channels: ChannelMap | None = None
    with record.stage("analyse"):
        channels = _analysed(record, case)
    if channels is None:
        return
    plan, small = None, None
    with record.stage("slice"):
        plan = channels.random_plan(flops=_attainable(channels), seed=0)
        small = _sliced(record, channels, case, plan)
    if plan is None or small is None:
        return
    checks: dict[str, Callable[[], None]] = {
        "train": lambda: _train(record, case, small),
        "counts": lambda: _counts(record, channels, case, plan, small),
        "onnx": lambda: _onnx(record, case, small),
        "search": lambda: _search(record, channels, case),
        "masked": lambda: _masked(record, channels, case, plan),
    }
    for name, work in checks.items():
        if name in only:
            with record.stage(name):
                work()
    record.found["stage"] = "done"
    record.save()


# -- analysed, cut ---------------------------------------------------------------------------------------


def _analysed(record: Record, case: Case) -> ChannelMap:
    """The channels of the whole network with its loss; else without the loss, else of its part.

    Anything but the first is a failure of this stage, and what could be analysed is still checked.
    """
    problem: Exception | None = None
    for part, inputs, loss in _ways(case):
        started = time.perf_counter()
        also = case.loss if loss else None
        pick = None if part else case.outputs
        try:
            channels = jstc.analyse(case.network, inputs(1), part=part, outputs=pick, also=also)
        except Exception as error:
            problem = problem or error
            continue
        seconds = time.perf_counter() - started
        if not channels.groups:
            problem = problem or CheckError("no group of channels was found")
            continue
        _describe(record, channels, seconds)
        record.found |= {"part": part, "with_loss": loss}
        if problem is not None:
            record.found["failures"]["analyse"] = message(problem)
        return channels
    assert problem is not None
    raise problem


def _ways(case: Case) -> Iterator[tuple[str | None, Inputs, bool]]:
    yield None, case.inputs, True
    yield None, case.inputs, False
    if case.part is not None and case.part_inputs is not None:
        yield case.part, case.part_inputs, True
        yield case.part, case.part_inputs, False


def _describe(record: Record, channels: ChannelMap, seconds: float) -> None:
    cost, least = channels.cost(), smallest(channels, WidthBounds.of(channels.groups))
    record.found |= {
        "flops": cost.flops,
        "params": cost.params,
        "groups": len(channels.groups),
        "most_flops": 1 - least.flops / cost.flops,
        "most_params": 1 - least.params / cost.params,
        "inexact": len(channels.inexact),
        "inexact_reasons": sorted(set(channels.inexact.values())),
        "unknown": channels.unknown_operations,
        "analyse_seconds": round(seconds, 2),
    }


def _attainable(channels: ChannelMap) -> float:
    """Half the FLOPs, or a hundredth more than the smallest share where that is above."""
    least = smallest(channels, WidthBounds.of(channels.groups)).flops / channels.cost().flops
    return SHARE if least <= SHARE else min(1.0, least + _MARGIN)


def _sliced(record: Record, channels: ChannelMap, case: Case, plan: Plan) -> nn.Module:
    small = channels.slice(case.network, plan)
    cost, whole = channels.cost(plan), channels.cost()
    record.found["slice"] = {"flops": cost.flops / whole.flops, "params": cost.params / whole.params}
    found, expected = (_run(network, case, case.inputs(1)) for network in (small, case.network))
    _require(len(found) == len(expected), f"{len(found)} results, and {len(expected)} of the whole network")
    # How many objects are found hangs on the weights.
    shapes = [[list(t.shape[1:]) for t in each if t.dim() > 1] for each in (found, expected)]
    if case.outputs is not None or not _picture_lists(case):
        _require(shapes[0] == shapes[1], f"results of {shapes[0]}, and of {shapes[1]} of the whole network")
    return small


def _picture_lists(case: Case) -> bool:
    return isinstance(case.inputs(1)[0], list)


def _run(network: nn.Module, case: Case, inputs: Sequence[Any]) -> list[Tensor]:
    """Tensors of the results that the user picks."""
    with torch.no_grad():
        found = _Picked(network, case).eval()(*inputs)
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


# -- trained, counted, exported, searched ----------------------------------------------------------------


def _step(network: nn.Module, case: Case) -> float:
    """The loss of one step of training."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    loss = case.loss(network)
    _require(math.isfinite(loss.item()), f"the loss is {loss.item()}")
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    _require(bool(gradients), "no parameter has a gradient")
    _require(all(bool(g.isfinite().all()) for g in gradients), "a gradient is not finite")
    optimizer.step()
    return loss.item()


def _train(record: Record, case: Case, small: nn.Module) -> None:
    record.found["train"] = {"loss": _step(copy.deepcopy(small), case)}


def _counts(record: Record, channels: ChannelMap, case: Case, plan: Plan, small: nn.Module) -> None:
    part = record.found["part"]
    ours = channels.cost(plan)
    if part is None:
        theirs = count(small, *case.inputs(1))
    else:
        assert case.part_inputs is not None
        theirs = count(small.get_submodule(part), *case.part_inputs(1))[0], count_params(small)
    record.found["counts"] = {"ours": [ours.flops, ours.params], "fvcore": list(theirs)}
    _require(
        (ours.flops, ours.params) == theirs,
        f"fvcore counts {theirs[0]:,} FLOPs and {theirs[1]:,} parameters, "
        f"the cost model {ours.flops:,} and {ours.params:,}",
    )


def count_params(network: nn.Module) -> int:
    """Numbers in the parameters, each once."""
    return sum(parameter.numel() for parameter in network.parameters())


def _onnx(record: Record, case: Case, small: nn.Module) -> None:
    """The file with any batch size, or, where the forward fixes that, with the example's."""
    found: dict[str, Any] = {"note": ""}
    record.found["onnx"] = found
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            exported, note = _exported(small, case, path)
        except JstcError as error:
            # What the whole network cannot do either is no fault of the cut.
            try:
                _exported(case.network, case, path)
            except JstcError as its_error:
                found["note"] = f"the whole network cannot be exported either: {message(its_error)}"
                return
            raise error
    found |= {
        "outputs": len(exported.outputs),
        "relative": max(o.max_abs_diff / max(1.0, o.largest) for o in exported.outputs),
        "batch": "fixed" if note else "dynamic",
        "note": note and f"batch size fixed: {note}",
        "seconds": round(time.perf_counter() - started, 1),
    }


def _exported(network: nn.Module, case: Case, path: Path) -> tuple[Exported, str]:
    """The file's outputs beside torch's, and why its batch size is fixed, if so."""
    example, note = case.inputs(1), "images in a list"
    first = next(leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
    if not _picture_lists(case):
        try:
            return jstc.export_onnx(network, example, path, outputs=case.outputs), ""
        except JstcError as error:
            note = message(error)
    return jstc.export_onnx(network, example, path, batch=len(first), outputs=case.outputs), note


def _search(record: Record, channels: ChannelMap, case: Case) -> None:
    """Rounds of one step each: none above the budget, and a network at the end that gives its results."""
    part, share = record.found["part"], _attainable(channels)
    bound, costs = share * channels.cost().flops, []
    inputs = case.inputs if part is None else case.part_inputs
    assert inputs is not None
    with tempfile.TemporaryDirectory() as folder:
        search = jstc.JointSearch(
            case.network,
            inputs(1),
            out=Path(folder) / "out",
            flops=share,
            rounds=_ROUNDS,
            also=case.loss if record.found["with_loss"] else None,
            outputs=None if part else case.outputs,
            part=part,
            progress=False,
        )
        while not search.done:
            round_ = search.ask()
            costs.append(round_.cost.flops)
            search.tell(round_, -_step(round_.network, case))
        for round_ in search.finalists():
            search.tell(round_, 0.0)
        slim = search.finish()
    costs.append(slim.cost.flops)
    record.found["search"] = {"shares": [cost / channels.cost().flops for cost in costs]}
    _require(max(costs) <= bound, f"{max(costs):,} FLOPs, the budget is {bound:,.0f}")
    _run(slim.network, case, case.inputs(1))


# -- sliced beside masked --------------------------------------------------------------------------------


def _masked(record: Record, channels: ChannelMap, case: Case, plan: Plan) -> None:
    """Groups whose removal is not the same as masking stay whole."""
    inexact, network = channels.inexact, case.network
    widths = channels.widths
    kept = {n: tuple(range(widths[n])) if n in inexact else k for n, k in plan.kept.items()}
    if all(len(kept[n]) == width for n, width in widths.items()):  # it had cut inexact groups alone
        kept |= {n: tuple(range((w + 1) // 2)) for n, w in widths.items() if n not in inexact}
    exact = Plan(kept, widths)
    found: dict[str, Any] = {"left_whole": len(inexact), "groups": len(channels.groups)}
    record.found["masked"] = found
    if len(inexact) == len(channels.groups):
        found["note"] = "no group whose removal is the same as masking"
        return
    dtype = torch.float64
    inputs = tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, case.inputs(1))
    try:
        dense = _compared(network.double(), case, inputs)
    except Exception as error:
        found["note"] = f"it does not run in float64: {message(error)}"
        dtype, inputs = torch.float32, case.inputs(1)
        dense = _compared(network.float(), case, inputs)
    sliced = _compared(channels.slice(network, exact), case, inputs)
    channels.mask(network, exact)
    masked = _compared(network, case, inputs)
    _require(_shapes(sliced) == _shapes(masked), f"{_shapes(sliced)} sliced, {_shapes(masked)} masked")
    found["apart"] = _apart(sliced, masked)
    found["effect"] = _apart(dense, masked) if _shapes(dense) == _shapes(masked) else 1.0
    _require(found["apart"] < _TOLERANCES[dtype], f"sliced and masked differ by {found['apart']:.2g}")
    _require(found["effect"] > _SHOWS, f"the mask shows too little to prove anything: {found['effect']:.2g}")


def _compared(network: nn.Module, case: Case, inputs: Sequence[Any]) -> list[Tensor]:
    """The results, or what the submodules give that the case names in their place."""
    found: list[Tensor] = []
    keep = lambda _, __, out: found.extend(t for t in tree_leaves(out) if isinstance(t, Tensor))  # noqa: E731
    hooks = [network.get_submodule(name).register_forward_hook(keep) for name in case.compared]
    results = _run(network, case, inputs)
    for hook in hooks:
        hook.remove()
    return found or results


def _shapes(tensors: Sequence[Tensor]) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors]


def _apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference of any result, relative to the largest value of that result."""
    apart = [0.0]
    for one, other in zip(some, others, strict=True):
        if other.numel():
            largest = float(other.double().abs().max())
            apart.append(float((one.double() - other.double()).abs().max()) / max(largest, 1e-30))
    return max(apart)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckError(otherwise)
