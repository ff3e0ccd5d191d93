"""One network for the comparison of latencies: made, cut to the share of FLOPs, and written as ONNX.

    python -m benchmarks.latency.networks KIND FILE.onnx [--model resnet50] [--flops 0.5]

KIND is `dense`, or how the network is cut, with the multiple that widths are rounded to after an `@`:

- `jstc-uniform`, `jstc-uniform@16`: the same share of every group, projected to the budget by jstc;
- `jstc-random0`, `jstc-random1@1`: the groups keep random shares (the number is the seed), which spread as
  those of a search do, and are projected to the budget the same way;
- `tp-local@8`, `tp-global@8`, `tp-local@1`: Torch-Pruning with its group L2 importance, the same ratio for
  every layer or one ranking of all channels; the pruning ratio that comes nearest to the share is searched.

Without an `@`, jstc rounds as its recipe does by default (`channels.round_to: auto`) and Torch-Pruning not at
all. All start from the same fresh network: times do not depend on the weights. The file tells the FLOPs, by
fvcore, and the widths in its metadata. One network per process, since Torch-Pruning needs much memory.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import re
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.zoo.record import limit_memory
from jstc import export, models
from jstc.channels import analyse
from jstc.jst.space import Space, resolve_budgets
from jstc.recipe import loading
from jstc.runs.stages.train import count

__all__ = ["Kind", "cut_by_jstc", "cut_by_torch_pruning", "parse", "write"]

_TRIES = 14
_CLOSE = 0.0005  # of the dense network's FLOPs
_LEAST_SHARE = 0.1  # of a layer or group, for both
_SPREAD = (0.3, 1.0)  # of the shares that random groups keep, before they are projected
_SIZE = 224
_NAME = re.compile(r"(jstc-uniform|jstc-random(?P<seed>\d+)|tp-local|tp-global)(@(?P<step>\d+))?")

Step = int | Literal["auto"]


class Kind:
    """What a name says: who cuts, how, and in which steps."""

    def __init__(self, name: str) -> None:
        found = _NAME.fullmatch(name)
        if name != "dense" and found is None:
            raise ValueError(f"no such network: {name}")
        step = found and found["step"]
        self.name = name
        self.tool = name.partition("-")[0]
        self.seed = int(found["seed"]) if found and found["seed"] else None
        self.is_global = name.startswith("tp-global")
        self.step: Step = int(step) if step else ("auto" if self.tool == "jstc" else 1)


def parse(name: str) -> Kind:
    """The kind of that name. Raises `ValueError` when there is none."""
    return Kind(name)


def write(kind: Kind, path: Path, *, model: str, share: float) -> dict[str, object]:
    """Make the network, cut it and write it. FLOPs, parameters and widths of its convolutions."""
    spec = models.spec(model, num_classes=1000, in_channels=3, height=_SIZE, width=_SIZE)
    network, image = models.build(spec, seed=0).eval(), torch.zeros(1, *spec.input_shape)
    if kind.tool == "jstc":
        network = cut_by_jstc(network, image, kind, share=share)
    elif kind.tool == "tp":
        network = cut_by_torch_pruning(network, image, kind, share=share)
    flops, params = count(copy.deepcopy(network), image)
    facts: dict[str, object] = {"flops": flops, "params": params, "widths": _widths(network)}
    metadata = export.encode_metadata({key: facts[key] for key in ("flops", "params")})
    export.write_onnx(network, path, shape=spec.input_shape, opset=18, metadata=metadata)
    return facts


def _widths(network: nn.Module) -> list[int]:
    return [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]


def cut_by_jstc(network: nn.Module, image: Tensor, kind: Kind, *, share: float) -> nn.Module:
    """The sliced network at `share` of the FLOPs, with the limits of a recipe."""
    settings = [f"channels.round_to={kind.step}"]
    recipe = loading.from_flags({"model": "-", "dataset": "-", "flops": str(share)}, settings)
    channels = analyse(network, image)
    random = np.random.default_rng(kind.seed)
    widths = [group.width for group in channels.groups]
    shares = [1.0 if kind.seed is None else random.uniform(*_SPREAD) for _ in widths]
    levels = [np.arange(1, w + 1) / w / kept for w, kept in zip(widths, shares, strict=True)]
    [space] = Space.each(channels, recipe, resolve_budgets(channels, recipe))
    plan = space.plan([np.arange(width) for width in widths], levels)
    return channels.slice(network, plan)


def cut_by_torch_pruning(network: nn.Module, image: Tensor, kind: Kind, *, share: float) -> nn.Module:
    """Its pruned network whose share of FLOPs is nearest to `share`, by bisection of the pruning ratio."""
    whole, _ = count(copy.deepcopy(network), image)
    low, high, best, nearest = 0.0, 1.0, network, math.inf
    for _ in range(_TRIES):
        ratio = (low + high) / 2
        pruned = _pruned(network, image, kind, ratio)
        reached = count(copy.deepcopy(pruned), image)[0] / whole
        if abs(reached - share) < nearest:
            best, nearest = pruned, abs(reached - share)
        if nearest <= _CLOSE:
            break
        low, high = (ratio, high) if reached > share else (low, ratio)
    return best


def _pruned(network: nn.Module, image: Tensor, kind: Kind, ratio: float) -> nn.Module:
    import torch_pruning

    duplicate = copy.deepcopy(network)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch_pruning.pruner.MetaPruner(
            duplicate,
            image,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=kind.is_global,
            pruning_ratio=ratio,
            max_pruning_ratio=1 - _LEAST_SHARE,
            round_to=None if kind.step == 1 else kind.step,
            ignored_layers=[m for m in duplicate.modules() if isinstance(m, nn.Linear)],
            # Its own defaults are shared by all pruners, and would remember the networks before this one.
            in_channel_groups={},
            out_channel_groups={},
            channel_groups={},
            num_heads={},
        ).step()
    return duplicate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", type=parse)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--memory", type=float, default=12.0, help="GB that the process may have")
    options = parser.parse_args()
    limit_memory(options.memory)
    torch.set_num_threads(1)
    facts = write(options.kind, options.file, model=options.model, share=options.flops)
    export_facts = {"kind": options.kind.name, "model": options.model, **facts}
    options.file.with_suffix(".json").write_text(_json(export_facts))


def _json(content: dict[str, object]) -> str:
    import json

    return json.dumps(content)


if __name__ == "__main__":
    main()
