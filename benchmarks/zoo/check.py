"""One network through everything that jstc says it does: analysed, cut, counted, compared, exported.

    python -m benchmarks.zoo.check NAME RESULT.json [--no-onnx]

The zoo runs this once for every network, in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.zoo import names as zoo_names
from benchmarks.zoo.record import Record, limit_memory, message
from jstc.channels import ChannelMap, analyse
from jstc.channels.budget import WidthBounds, smallest
from jstc.export import parity, write_onnx
from jstc.plan import Plan
from jstc.recipe.schema import ExportSettings
from jstc.runs.stages.train import count

__all__ = ["SHARE", "CheckError", "attainable", "check"]

SHARE = 0.5
MARGIN = 0.01  # where half the FLOPs cannot be reached: this much above the smallest share
BATCHES = (1, 3)
MASKED_TOLERANCE = 1e-9
ONNX_TOLERANCE = 1e-3
_ENDS = ("network input", "network output")  # frozen in every network
_SHOWS = 1e-6  # a mask that changes the output by less than this share would prove nothing


class CheckError(Exception):
    """What was found is not what should be."""


def check(record: Record, network: nn.Module, image: Tensor, *, onnx: bool = True) -> None:
    """Put everything found into `record`. The network is spent: float64 and masked at the end.

    `image` is [1, C, H, W].
    """
    channels, cut = None, None
    with record.stage("analyse"):
        channels = _analysed(record, network, image)
    if channels is None:
        return
    with record.stage("slice"):
        cut = _sliced(record, channels, network)
    if cut is None:
        return
    plan, small = cut
    with record.stage("counts"):
        _counts(record, channels, plan, small=small, image=image)
    with record.stage("forward"):
        _forward(record, network, small, image)
    if onnx:
        with record.stage("onnx"):
            _onnx(record, small, image)
    del small, cut
    with record.stage("masked"):
        _masked(record, channels, network, plan=plan, image=image)
    record.found["stage"] = "done"
    record.save()


def _analysed(record: Record, network: nn.Module, image: Tensor) -> ChannelMap:
    analyse(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), torch.zeros(1, 3, 2, 2))  # loads what loads late
    started = time.perf_counter()
    channels = analyse(network, image)
    seconds = time.perf_counter() - started
    cost, least = channels.cost(), smallest(channels, WidthBounds.of(channels.groups))
    reasons: Counter[str] = Counter()
    for frozen in channels.frozen:
        reasons[frozen.reason] += frozen.channels
    ends = sum(reasons.pop(reason, 0) for reason in _ENDS)
    record.found |= {
        "input": list(image.shape[1:]),
        "flops": cost.flops,
        "params": cost.params,
        "groups": len(channels.groups),
        "coverage": channels.coverage,
        "smallest": least.flops / max(cost.flops, 1),
        "frozen": ends + sum(reasons.values()),
        "frozen_inside": sum(reasons.values()),
        "reasons": reasons.most_common(3),
        "unknown": channels.unknown_operations,
        "analyse_seconds": round(seconds, 4),
    }
    _require(bool(channels.groups), "no group of channels was found")
    return channels


def attainable(channels: ChannelMap) -> float:
    """Half the FLOPs, or a hundredth more than the smallest share where that is above."""
    least = smallest(channels, WidthBounds.of(channels.groups)).flops / channels.cost().flops
    return SHARE if least <= SHARE else min(1.0, least + MARGIN)


def _sliced(record: Record, channels: ChannelMap, network: nn.Module) -> tuple[Plan, nn.Module]:
    plan = channels.random_plan(flops=attainable(channels), seed=0)
    started = time.perf_counter()
    small = channels.slice(network, plan)
    seconds, cost, whole = time.perf_counter() - started, channels.cost(plan), channels.cost()
    record.found["slice"] = {
        "flops_share": cost.flops / whole.flops,
        "params_share": cost.params / whole.params,
        "seconds": round(seconds, 4),
    }
    return plan, small


def _counts(record: Record, channels: ChannelMap, plan: Plan, *, small: nn.Module, image: Tensor) -> None:
    ours, theirs = channels.cost(plan), count(small, image)
    record.found["counts"] = {"ours": [ours.flops, ours.params], "fvcore": list(theirs)}
    _require(
        (ours.flops, ours.params) == theirs,
        f"fvcore counts {theirs[0]:,} FLOPs and {theirs[1]:,} parameters, "
        f"the cost model {ours.flops:,} and {ours.params:,}",
    )


# -- forward ---------------------------------------------------------------------------------------------


def _forward(record: Record, network: nn.Module, small: nn.Module, image: Tensor) -> None:
    expected = _run(network, image)
    finite, notes = bool(expected.isfinite().all()), dict[str, str]()
    if not finite:
        notes["finite"] = "the target network's output is not finite either"
    record.found["forward"] = notes
    for dtype in (torch.float32, torch.float64):
        # In a copy: the network in float32 is still needed.
        slim = small if dtype == torch.float32 else copy.deepcopy(small).to(dtype)
        for batch in BATCHES:
            images, shape = _images(image, batch).to(dtype), (batch, *expected.shape[1:])
            try:
                output = _run(slim, images)
            except Exception as error:
                kind = str(dtype).removeprefix("torch.")
                notes[f"{kind}, batch {batch}"] = _excuse(network, images, error)
                continue
            _require(tuple(output.shape) == shape, f"the output is {list(output.shape)}, not {list(shape)}")
            _require(not finite or bool(output.isfinite().all()), "the output is not finite, the target's is")


def _images(image: Tensor, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, *image.shape[1:], generator=generator)


def _run(network: nn.Module, images: Tensor) -> Tensor:
    """The first output."""
    with torch.inference_mode():
        return next(leaf for leaf in tree_leaves(network(images)) if isinstance(leaf, Tensor))


def _excuse(network: nn.Module, images: Tensor, error: Exception) -> str:
    # What the target network cannot do either is no fault of the cut.
    try:
        _run(copy.deepcopy(network).to(images.dtype), images)
    except Exception as its_error:
        return f"the target network cannot either: {message(its_error)}"
    raise error


# -- masked, exported ------------------------------------------------------------------------------------


def _masked(record: Record, channels: ChannelMap, network: nn.Module, *, plan: Plan, image: Tensor) -> None:
    inexact = channels.inexact
    kept = {n: tuple(range(channels.widths[n])) if n in inexact else k for n, k in plan.kept.items()}
    exact, images = Plan(kept, channels.widths), _images(image, 1).double()
    found: dict[str, Any] = {"groups_left_whole": len(inexact)}
    record.found["masked"] = found
    if len(inexact) == len(channels.groups):
        found["note"] = "no group whose removal is the same as masking"
        return
    network.double()
    try:
        dense = _run(network, images)
    except Exception as error:
        found["note"] = f"the target network does not run in float64: {message(error)}"
        return
    sliced = _run(channels.slice(network, exact), images)
    channels.mask(network, exact)
    masked = _run(network, images)
    found["max_rel_diff"], found["effect"] = _apart(sliced, masked), _apart(dense, masked)
    _require(
        found["max_rel_diff"] < MASKED_TOLERANCE, f"sliced and masked differ by {found['max_rel_diff']:.2g}"
    )
    _require(found["effect"] > _SHOWS, f"the mask shows too little to prove anything: {found['effect']:.2g}")


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def _onnx(record: Record, small: nn.Module, image: Tensor) -> None:
    shape: Any = tuple(image.shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        started = time.perf_counter()
        write_onnx(small, path, shape=shape, opset=ExportSettings().opset, metadata={})
        seconds = time.perf_counter() - started
        result = parity(small, path, _images(image, max(BATCHES)))
        limit = ONNX_TOLERANCE * max(1.0, result.max_abs_logit)
        record.found["onnx"] = {
            "max_abs_diff": result.max_abs_diff,
            "relative": result.max_abs_diff / max(1.0, result.max_abs_logit),
            "seconds": round(seconds, 2),
            "bytes": path.stat().st_size,
        }
    if not math.isfinite(result.max_abs_logit):
        record.found["onnx"]["note"] = "the network's own logits are not finite"
        return
    _require(
        result.max_abs_diff <= limit, f"ONNX and torch differ by {result.max_abs_diff:.2g}, limit {limit:.2g}"
    )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckError(otherwise)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("result", type=Path)
    parser.add_argument("--no-onnx", action="store_true")
    parser.add_argument("--memory", type=float, default=16.0, help="GB that the process may have")
    options = parser.parse_args()
    limit_memory(options.memory)
    warnings.simplefilter("ignore")
    record = Record(options.result)
    made = None
    with record.stage("build"):
        made = zoo_names.build(options.name)
        zoo_names.randomise(made[0])
    if made is not None:
        check(record, *made, onnx=not options.no_onnx)


if __name__ == "__main__":
    main()
