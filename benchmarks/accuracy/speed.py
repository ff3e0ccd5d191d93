"""How fast the networks of the accuracy benchmark are: equal FLOPs are not equal times.

    python -m benchmarks.accuracy.speed OUT/results/CASE/*.json [--size 32] [--batch 8] [--seconds 30]
                                          [--threads 1]

The target network and one of the widths of each result (first channels, fresh weights: times do not depend
on them) are written as ONNX for images of --size pixels and take turns in onnxruntime on the CPU: every round
runs each of them once, in an order of its own. Printed are test accuracy, the share of the FLOPs, and the
speed-up over the target network as the median of the paired ratios, with its 95 % interval. All results must
be of one network.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.settings import CASES
from jstc import export, models
from jstc.channels import analyse
from jstc.core import files
from jstc.ort.opened import Opened, open_file, prepare
from jstc.ort.statistics import interleaved_seconds, paired_ratio, warm_up
from jstc.plan import Plan

__all__ = ["opened"]

_CLASSES = 10
_WARM_UP_SHARE = 0.3


def opened(results: list[dict[str, Any]], folder: Path, *, size: int, threads: int) -> list[Opened]:
    """Sessions of the target network and of the widths of each result, in this order."""
    model = CASES[results[0]["case"]].model
    spec = models.spec(model, num_classes=_CLASSES, in_channels=3, height=size, width=size)
    network = models.build(spec, seed=0).eval()
    channels = analyse(models.build(spec, device="meta"), torch.zeros(1, *spec.input_shape))
    found = []
    for number, counts in enumerate([channels.widths, *(r["extra"]["counts"] for r in results)]):
        plan = Plan({name: tuple(range(counts[name])) for name in channels.widths}, channels.widths)
        path = folder / f"{number}.onnx"
        small = channels.slice(network, plan).eval()
        metadata = export.encode_metadata({"flops": channels.cost(plan).flops})
        export.write_onnx(small, path, shape=spec.input_shape, opset=18, metadata=metadata)
        found.append(open_file(str(number), path, provider="cpu", threads=threads))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    results = [files.read_json(path) for path in options.results]
    if len({CASES[result["case"]].model for result in results}) > 1:
        sys.exit("error: these results are of several networks; give those of one")
    with tempfile.TemporaryDirectory() as folder:
        sessions = opened(results, Path(folder), size=options.size, threads=options.threads)
        runs = [prepare(each, options.batch) for each in sessions]
        warm_up(runs, seconds=_WARM_UP_SHARE * options.seconds)
        latencies = interleaved_seconds(runs, seconds=options.seconds)
    print(f"batch {options.batch}, {options.size} pixels, {options.threads} threads, {len(latencies)} rounds")
    for column, (path, result) in enumerate(zip(options.results, results, strict=True), start=1):
        ratio = paired_ratio(latencies[:, 0], latencies[:, column])
        accuracy, share = 100 * result["accuracy"], 100 * result["flops_share"]
        interval = f"{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"
        print(f"{path.stem:32}{accuracy:8.2f} %{share:7.1f} % of the FLOPs  {interval}")


if __name__ == "__main__":
    main()
