"""One piece of work by jstc and by Torch-Pruning, in one process: from a network to one at half the FLOPs.

    python -m benchmarks.zoo.peer NAME RESULT.json [--repeats 3]

Both start from the same network on the CPU, in evaluation mode, with one thread, and take turns. Timed are

- for jstc: `analyse`, `random_plan` at half the FLOPs (or, where that cannot be reached, at the smallest
  share and a hundredth), `slice`;
- for Torch-Pruning: `MetaPruner(...)`, which traces the network and builds the dependency graph, and one
  `step()`, to the same share of FLOPs.

What was done so that Torch-Pruning is at its best:

- importance is random, which costs it less than any criterion;
- the pruning ratio that gives the share is searched for beforehand and not timed, and that search has warmed
  it up (jstc has one run that is not timed, too). Copying the network before it is pruned is not timed;
- pruning is local (`global_pruning=False`), as in its examples; the classifier is ignored;
- it is told `num_heads` of the layers that make queries, keys and values; sizes of heads that its examples
  repair by hand after pruning are repaired, and so is torchvision's `hidden_dim`; timm's attention runs
  unfused for both (`TIMM_FUSED_ATTN=0`), as in its examples; channels of networks with torch's own attention
  are rounded to the number of heads, and its output projections are ignored, as in its benchmarks;
- where the pruned network does not run, two other pruning ratios are tried;
- FLOPs are fvcore's, for both.

Where it fails, the message is kept: a graph or a step that fails, a pruned network whose forward fails.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TIMM_FUSED_ATTN"] = "0"  # timm reads it when it is imported

import torch
from torch import Tensor, nn

from benchmarks.zoo import names as zoo_names
from benchmarks.zoo.check import attainable
from benchmarks.zoo.record import Record, limit_memory, message
from jstc.channels import analyse
from jstc.runs.stages.train import count

__all__ = ["PeerResult", "compare", "find_ratio", "prune"]

_SLOW_SECONDS = 10.0  # a repeat that takes longer is the only one
_TRIES = 8
_CLOSE = 0.01  # of the share of FLOPs
_FIRST_RATIOS = (0.29, 0.25, 0.5)  # the first gives half the FLOPs where both widths of every layer shrink
_QUERIES = ("qkv", "qkv_proj", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj", "query", "key", "value")


@dataclass(frozen=True)
class PeerResult:
    """A pruning ratio, the share of FLOPs that it gives, and why the pruned network cannot run, if so."""

    ratio: float
    share: float | None
    problem: str | None


def compare(record: Record, network: nn.Module, image: Tensor, *, repeats: int) -> None:
    """Put seconds of both, and what came of Torch-Pruning's network, into `record`; see the module's text."""
    found: dict[str, Any] = {}
    record.found["peer"] = found
    with record.stage("jstc"):
        found["share"], found["warm_up_seconds"] = _ours(network, image)
    if "share" not in found:
        return
    with record.stage("torch-pruning"):
        whole, _ = _counted(network, image)
        result = find_ratio(network, image, share=found["share"], whole=whole)
        found |= {"ratio": result.ratio, "their_share": result.share, "problem": result.problem}
    ratio: float | None = found.get("ratio")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        with record.stage("timing"):
            ours.append(_ours(network, image)[1])
            if ratio is not None:
                theirs.append(_theirs(network, image, ratio))
        found |= _seconds("ours", ours) | _seconds("theirs", theirs)
        record.save()
        if max([*ours, *theirs], default=0.0) > _SLOW_SECONDS or "timing" in record.found["failures"]:
            break
    record.found["stage"] = "done"
    record.save()


def _seconds(whose: str, values: list[float]) -> dict[str, Any]:
    if not values:
        return {}
    rounded = [round(value, 4) for value in values]
    return {whose: rounded, f"{whose}_median": round(statistics.median(values), 4)}


def _ours(network: nn.Module, image: Tensor) -> tuple[float, float]:
    """Share of the FLOPs that the sliced network has, and seconds."""
    started = time.perf_counter()
    channels = analyse(network, image)
    plan = channels.random_plan(flops=attainable(channels), seed=0)
    channels.slice(network, plan)
    seconds = time.perf_counter() - started
    return channels.cost(plan).flops / channels.cost().flops, seconds


def _theirs(network: nn.Module, image: Tensor, ratio: float) -> float:
    duplicate = copy.deepcopy(network)
    started = time.perf_counter()
    prune(duplicate, image, ratio)
    return time.perf_counter() - started


# -- Torch-Pruning ---------------------------------------------------------------------------------------


def prune(network: nn.Module, image: Tensor, ratio: float) -> None:
    """Dependency graph, random importance, one step: in place."""
    import torch_pruning

    heads, ignored = _heads(network), _ignored(network)
    with _quiet():
        pruner = torch_pruning.pruner.MetaPruner(
            network,
            image,
            importance=torch_pruning.importance.RandomImportance(),
            global_pruning=False,
            pruning_ratio=ratio,
            ignored_layers=ignored,
            num_heads=dict(heads),
            round_to=_round_to(network),
            # Its own defaults are shared by all pruners, and would remember the networks before this one.
            in_channel_groups={},
            out_channel_groups={},
        )
        pruner.step()
    _repair(network, pruner.num_heads)


def find_ratio(network: nn.Module, image: Tensor, *, share: float, whole: int) -> PeerResult:
    """The pruning ratio whose network has `share` of `whole` FLOPs, as nearly as the search gets.

    Raises whatever Torch-Pruning raises while it prunes.
    """
    tried = PeerResult(_FIRST_RATIOS[0], None, None)
    for ratio in _FIRST_RATIOS:
        result = _at(network, image, ratio, whole)
        if result.share is not None:
            return _nearest(network, image, result, share=share, whole=whole)
        tried = tried if tried.problem else result
    return tried


def _nearest(network: nn.Module, image: Tensor, first: PeerResult, *, share: float, whole: int) -> PeerResult:
    # Each guess takes FLOPs for a power of the kept ratio, and stays within what is known to bracket it.
    low, high, best, last = 0.0, 1.0, first, first
    for _ in range(_TRIES):
        if last.share is None or best.share is None or abs(best.share - share) <= _CLOSE:
            break
        low, high = (last.ratio, high) if last.share > share else (low, last.ratio)
        ratio = _next_ratio(last.ratio, last.share, share=share, low=low, high=high)
        last = _at(network, image, ratio, whole)
        if last.share is not None and abs(last.share - share) < abs(best.share - share):
            best = last
    return best


def _at(network: nn.Module, image: Tensor, ratio: float, whole: int) -> PeerResult:
    pruned = copy.deepcopy(network)
    prune(pruned, image, ratio)
    try:
        with torch.inference_mode():
            pruned(image)
        return PeerResult(ratio, _counted(pruned, image)[0] / whole, None)
    except Exception as error:
        return PeerResult(ratio, None, message(error))


def _next_ratio(ratio: float, reached: float, *, share: float, low: float, high: float) -> float:
    if 0 < reached < 1:
        power = math.log(reached) / math.log(1 - ratio)
        guess = 1 - float(share ** (1 / power))
        if low < guess < high:
            return guess
    return (low + high) / 2


def _counted(network: nn.Module, image: Tensor) -> tuple[int, int]:
    """FLOPs and parameters by fvcore."""
    try:  # shapes are enough to count with, and a fraction of the time
        return count(copy.deepcopy(network).to("meta"), image.to("meta"))
    except Exception:
        return count(network, image)


def _heads(network: nn.Module) -> dict[nn.Module, int]:
    """Layers that make queries, keys and values, with their number of heads."""
    heads: dict[nn.Module, int] = {}
    for module in network.modules():
        number = getattr(module, "num_heads", None)
        if isinstance(number, int) and not isinstance(module, nn.MultiheadAttention):
            layers = (getattr(module, name, None) for name in _QUERIES)
            heads |= {m: number for m in layers if isinstance(m, nn.Linear | nn.Conv2d)}
    return heads


def _ignored(network: nn.Module) -> list[nn.Module]:
    """The classifier, and the output projections inside torch's own attention."""
    projection = nn.modules.linear.NonDynamicallyQuantizableLinear
    return [
        module
        for module in network.modules()
        if isinstance(module, projection)
        or (isinstance(module, nn.Linear) and module.out_features == zoo_names.NUM_CLASSES)
        or (isinstance(module, nn.Conv2d) and module.out_channels == zoo_names.NUM_CLASSES)
    ]


def _round_to(network: nn.Module) -> int | None:
    own = [m.num_heads for m in network.modules() if isinstance(m, nn.MultiheadAttention)]
    return max(own) if own else None


def _repair(network: Any, heads: dict[nn.Module, int]) -> None:
    """Attributes that repeat a width, as its examples set them after pruning."""
    for module in network.modules():
        layer = next((m for m in (getattr(module, n, None) for n in _QUERIES) if m in heads), None)
        if layer is None or not isinstance(getattr(module, "head_dim", None), int):
            continue
        fused = 3 if layer in (getattr(module, "qkv", None), getattr(module, "qkv_proj", None)) else 1
        width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        module.num_heads = heads[layer]
        module.head_dim = width // (fused * module.num_heads)
        if hasattr(module, "attn_dim"):
            module.attn_dim = module.num_heads * module.head_dim
    if hasattr(network, "hidden_dim") and hasattr(network, "conv_proj"):
        network.hidden_dim = network.conv_proj.out_channels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("result", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, default=16.0, help="GB that the process may have")
    options = parser.parse_args()
    limit_memory(options.memory)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record, made = Record(options.result), None
    with record.stage("build"):
        made = zoo_names.build(options.name)
    if made is not None:
        compare(record, *made, repeats=options.repeats)


if __name__ == "__main__":
    main()
