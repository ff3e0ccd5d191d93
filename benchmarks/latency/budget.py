"""Are latency budgets met? Plans drawn at a budget, corrected, measured afterwards beside the target.

    python -m benchmarks.latency.budget resnet18 mobilenet_v2 --latency 0.5 0.7 --plans 3

Weights are random: the time does not depend on them. For every plan, a line with the budget, what was
predicted for the plan as it was drawn, what it measured, and what the corrected plan measures in a run of
its own.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import torch

from jstc import models
from jstc.channels import ChannelMap, analyse
from jstc.channels.budget import Budget, WidthBounds, project, resolve
from jstc.core.progress import Silent
from jstc.plan import Plan
from jstc.recipe.schema import LatencySettings, Recipe
from jstc.runs.latency_budget import LatencyBudgets, NetworkTimer, quick_onnx, setting_of

SHAPE = (3, 224, 224)
NANO = 1e6


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    print(f"{'network':14} {'budget':>10} {'drawn: predicted':>17} {'measured':>14} "
          f"{'corrected':>10} {'afterwards':>17}")  # fmt: skip
    for name in options.models:
        spec = models.spec(name, num_classes=1000, in_channels=3, height=224, width=224, cifar=False)
        channels = analyse(models.build(spec, device="meta"), torch.zeros(1, *SHAPE, device="meta"))
        for amount in options.latency:
            _budget(name, channels, partial(models.build, spec), amount, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument(
        "--latency", nargs="+", default=["0.5"], help="shares of the target, or times such as 9ms"
    )
    parser.add_argument("--plans", type=int, default=2)
    parser.add_argument("--provider", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


def _budget(
    name: str,
    channels: ChannelMap,
    new_target: partial[torch.nn.Module],
    amount: str,
    options: argparse.Namespace,
) -> None:
    where = LatencySettings(provider=options.provider, batch=options.batch, threads=options.threads)
    recipe = Recipe(model=name, dataset="imagenet", latency=amount, latency_on=where)
    timer = NetworkTimer(new_target, channels, setting_of(where), partial(quick_onnx, shape=SHAPE))
    begin = time.perf_counter()
    latency = LatencyBudgets.measured(channels, timer, recipe, progress=Silent())
    bounds = latency.bounds(recipe)
    budget = resolve(latency.channels, recipe.budget, bounds)
    print(f"{name}: ready after {time.perf_counter() - begin:.0f} s; target {timer.target_ms:.2f} ms, "
          f"steps of up to {latency.model.block} channels")  # fmt: skip
    for seed in range(options.plans):
        _line(name, latency, budget, bounds, seed)


def _line(name: str, latency: LatencyBudgets, budget: Budget, bounds: WidthBounds, seed: int) -> None:
    groups, limit = latency.channels.groups, budget.on("latency").limit / NANO
    random = np.random.default_rng(seed)
    levels = [np.arange(1, g.width + 1) / g.width / random.uniform(0.3, 1.0) for g in groups]
    counts = project(latency.channels, levels, budget, bounds)
    plan = Plan(
        {g.name: tuple(range(n)) for g, n in zip(groups, counts.tolist(), strict=True)},
        latency.channels.widths,
    )
    [drawn] = latency.timer.milliseconds([plan])
    fitted = latency.fit(plan, [np.arange(g.width) for g in groups], budget, bounds)
    [after] = latency.timer.milliseconds([fitted.plan])
    print(f"{name:14} {limit:7.2f} ms {latency.model(counts):14.2f} ms {drawn:7.2f} ({drawn / limit:.3f}) "
          f"{fitted.corrections:9}x {after:10.2f} ({after / limit:.3f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
