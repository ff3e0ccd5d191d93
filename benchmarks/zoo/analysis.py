"""Where the time of an analysis goes: seconds of each part, for networks of torchvision.

    python -m benchmarks.zoo.analysis [NAME ...] [--repeats 5]

One process, one thread. The parts: a replica on the meta device, the trace of its forward, the structure
(groups), the proof (with its own trace and structures), a random plan at half the FLOPs, the slice. `total`
is everything, and so more than the sum of its parts. Seconds are medians of the CPU's, which depend less
than the clock on what else the machine is doing; a first run, which warms up, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from jstc import models
from jstc.channels import analyse, channel_map

__all__ = ["main", "seconds"]

PARTS = {"replica": "_replica", "trace": "run", "proof": "prove"}
_NETWORKS = ("alexnet", "resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "vit_b_16")


def seconds(model: nn.Module, image: Tensor) -> defaultdict[str, float]:
    """Seconds of the CPU by part, from a network to one at half the FLOPs."""
    found: defaultdict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        for part, name in PARTS.items():
            work = _timed(found, part, getattr(channel_map, name))
            stack.enter_context(mock.patch.object(channel_map, name, work))
        with _measured(found, "total"):
            with _measured(found, "analyse"):
                channels = analyse(model, image)
            with _measured(found, "plan"):
                plan = channels.random_plan(flops=0.5)
            with _measured(found, "slice"):
                channels.slice(model, plan)
    found["structure"] = found["analyse"] - sum(found[part] for part in PARTS)
    return found


@contextmanager
def _measured(found: defaultdict[str, float], part: str) -> Iterator[None]:
    started = time.process_time()
    try:
        yield
    finally:
        found[part] += time.process_time() - started


def _timed(found: defaultdict[str, float], part: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **options: Any) -> Any:
        with _measured(found, part):
            return work(*args, **options)

    return timed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=_NETWORKS)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("replica", "trace", "structure", "proof", "plan", "slice", "total")
    print(f"{'':20}" + "".join(f"{column:>11}" for column in columns))
    for name in options.names:
        side = 299 if name == "inception_v3" else 224
        spec = models.spec(name, num_classes=1000, in_channels=3, height=side, width=side)
        model, image = models.build(spec, seed=0).eval(), torch.zeros(1, 3, side, side)
        seconds(model, image)
        runs = [seconds(model, image) for _ in range(options.repeats)]
        medians = (statistics.median(run[column] for run in runs) for column in columns)
        print(f"{name:20}" + "".join(f"{value:11.3f}" for value in medians), flush=True)


if __name__ == "__main__":
    main()
