"""What a search round spends on anything but training, and how fast a sub-network trains beside its target.

    python -m benchmarks.throughput.one_round [--model resnet20] [--flops 0.5] [--steps 20] [--threads 0]
        [--compile]

One process, random images of 32x32, interleaved: training steps of the target network, the cut of a
sub-network as the search draws it (a fine round's plan, at the budget, in the recipe's steps), training
steps of the sub-network, the same with gates (as where channel weights are learned), and the way back. Prints
images per second, their ratios, and the share of cutting and mapping back in a round of that many steps. All
rounds have the widths of the first; with --compile the same steps are made by torch's compiler, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from jstc import models
from jstc.channels import analyse
from jstc.jst.phases import growth_of
from jstc.jst.proposer import Proposer
from jstc.jst.space import resolve_budgets
from jstc.jst.subnetwork import Target, cut, put_back
from jstc.recipe import loading
from jstc.train import device, optim
from jstc.train.device import compiled
from jstc.train.loop import frozen, train_steps
from jstc.train.one_step import step_options
from jstc.train.schedule import Schedule

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds and the result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="torch's CPU threads; 0: its own choice")
    parser.add_argument("--compile", action="store_true", help="compare with torch.compile, too")
    options = parser.parse_args()

    flags = {"model": options.model, "dataset": "cifar10", "flops": options.flops}
    recipe = loading.from_flags(flags, ["train.lr=0.01"])
    device.set_threads(options.threads)
    where, settings = device.device("auto"), recipe.train
    spec = models.spec(options.model, num_classes=10, in_channels=3, height=32, width=32)
    network = device.to_device(models.build(spec), settings, where)
    channels = analyse(network, torch.zeros(1, 3, 32, 32))
    target = Target.new(network, channels, settings)
    proposer = Proposer(channels, recipe, resolve_budgets(channels, recipe))
    fine = growth_of(recipe.search).at(recipe.search.rounds - 1)
    whole = optim.make(dict(network.named_parameters()), settings)
    images, labels = (
        torch.randn(options.batch, 3, 32, 32, device=where),
        torch.zeros(options.batch, device=where),
    )
    batches = [(images, labels.long())] * options.steps

    def train(trained: torch.nn.Module, optimizer: torch.optim.Optimizer) -> object:
        return train_steps(
            trained, batches, optimizer=optimizer, schedule=Schedule(0.01, 10_000), first_step=0,
            options=step_options(settings, where, seed=0, images=options.batch),
        )  # fmt: skip

    rows, fused = [], []
    for number in range(options.rounds + 1):
        plan = proposer.propose(target, fine, 0).plan
        full, _ = timed(lambda: train(network, whole))
        cutting, trial = timed(partial(cut, target, plan, settings))
        both = [trial.gated.ungated(), trial.gated]
        assert trial.optimizer is not None
        with frozen(trial.gated.alpha):
            taken = {
                called: timed(partial(train, called, trial.optimizer))[0]
                for called in (both if number % 2 else reversed(both))  # neither is always the first
            }
        if options.compile:
            called = compiled(trial.gated.ungated())
            fused.append(timed(partial(train, called, trial.optimizer))[0])
        back, _ = timed(partial(put_back, trial, target))
        rows.append((full, *(taken[called] for called in both), cutting + back))
    full, small, gated, moved = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    count, share = options.steps * options.batch, 100 * moved / (small + moved)
    print(f"{options.model} at {options.flops:g} of its FLOPs, steps of {options.batch}, {where}")
    print(f"target network      {count / full:8.0f} images/s")
    print(f"sub-network         {count / small:8.0f} images/s   {full / small:.2f}x")
    slower = statistics.median(row[1] / row[2] for row in rows[1:])  # of pairs: the machine may change
    print(f"with gates          {count / gated:8.0f} images/s   {slower:.3f}x the sub-network's")
    if fused:
        made, fast = fused[0], statistics.median(fused[1:])
        print(f"compiled            {count / fast:8.0f} images/s   {small / fast:.2f}x the sub-network's")
        pays = f"pays after {options.steps * (made - fast) / (small - fast):.0f} steps"
        print(f"to compile it       {made - fast:8.1f} s          {pays if fast < small else 'never pays'}")
    print(f"cut and map back    {1e3 * moved:8.1f} ms         {share:.2f} % of the round")


if __name__ == "__main__":
    main()
