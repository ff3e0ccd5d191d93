"""How much of a cut in FLOPs arrives as speed in onnxruntime: jstc's widths beside Torch-Pruning's.

    python -m benchmarks.latency [--model resnet50] [--flops 0.5] [--batch 1,8] [--seconds 60] [--threads 0]
                                 [--networks NAME,...] [--work DIR] [--out RESULT.json]

The dense network and those cut to the same share of its FLOPs (see `latency/networks.py` for their names)
are written as ONNX by the same exporter, each in a process of its own, and then take turns in this process:
every round runs each of them once, in an order of its own. Printed are, for each batch size,

- the median, the speed-up over the dense network as the median of the paired ratios, its 95 % interval;
- the ratio of FLOPs, and the share of the ideal: speed-up over ratio of FLOPs, with its interval;
- for every network of jstc beside each of Torch-Pruning: the ratio of their shares, from rounds of the two
  alone, with its interval: above 1 jstc's widths bring more of their cut.

FLOPs are fvcore's. A search's plan keeps other shares in every group; the random plans, projected to the
budget with the recipe's default alignment, stand for it, several seeds of them, beside the uniform one.
Networks that are in --work already are taken from there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import children
from jstc.core import files
from jstc.ort.machine import environment
from jstc.ort.opened import Opened, open_file, prepare
from jstc.ort.statistics import Ratio, interleaved_seconds, paired_ratio, warm_up

__all__ = ["Line", "compared", "lines", "table"]

_DENSE = "dense"
_NETWORKS = "jstc-uniform,jstc-random0,jstc-random1,jstc-random2,tp-local@8,tp-global@8"
_NETWORK = "benchmarks.latency.networks"
_WARM_UP_SHARE = 0.3

Latencies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One network at one batch size: milliseconds, and speed-up and share of the ideal with intervals."""

    name: str
    batch: int
    median_ms: float
    flops: int
    flops_ratio: float
    speedup: Ratio
    share: Ratio


def main() -> None:
    options = _options()
    names = [_DENSE, *options.networks.split(",")]
    machine = environment()
    made = {name: _made(name, options) for name in names}
    opened = [
        open_file(name, _path(name, options), provider="cpu", threads=options.threads) for name in names
    ]
    result: dict[str, Any] = {"model": options.model, "share": options.flops, "threads": options.threads,
                              "environment": machine, "networks": made, "batches": []}  # fmt: skip
    print(f"{options.model} at {options.flops:g} of its FLOPs, onnxruntime on {machine['cpu']}, load before: "
          f"{machine['load_average']}")  # fmt: skip
    for batch in map(int, options.batch.split(",")):
        found = _measured(opened, batch, options.seconds)
        print("\n".join(table(found["lines"], found["beside"], rounds=found["rounds"])))
        result["batches"].append(_plain(found))
        if options.out is not None:
            files.write_json(options.out, result)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """What was measured at one batch size, as JSON takes it."""
    beside = {
        ours: {theirs: asdict(ratio) for theirs, ratio in ratios.items()}
        for ours, ratios in found["beside"].items()
    }
    return found | {"lines": [asdict(line) for line in found["lines"]], "beside": beside}


def _measured(opened: list[Opened], batch: int, seconds: float) -> dict[str, Any]:
    runs = [prepare(item, batch) for item in opened]
    warm = warm_up(runs, seconds=_WARM_UP_SHARE * seconds)
    latencies = interleaved_seconds(runs, seconds=seconds)
    flops = {item.label: item.facts.flops or 0 for item in opened}
    return {
        "batch": batch,
        "rounds": len(latencies),
        "steady": warm.steady,
        "lines": lines(latencies, flops, batch=batch),
        "beside": compared(latencies, flops),
    }


def lines(latencies: Latencies, flops: dict[str, int], *, batch: int) -> list[Line]:
    """Each network beside the first; `latencies` [rounds, networks] in seconds, in the order of `flops`."""
    dense = next(iter(flops.values()))
    found = []
    for column, (name, count) in enumerate(flops.items()):
        ideal, ratio = dense / count, paired_ratio(latencies[:, 0], latencies[:, column])
        median = 1e3 * float(np.median(latencies[:, column]))
        found.append(Line(name, batch, median, count, ideal, ratio, _scaled(ratio, 1 / ideal)))
    return found


def compared(latencies: Latencies, flops: dict[str, int]) -> dict[str, dict[str, Ratio]]:
    """Shares of the ideal of jstc's networks over those of Torch-Pruning's."""
    names = list(flops)

    def beside(ours: str, theirs: str) -> Ratio:
        ratio = paired_ratio(latencies[:, names.index(theirs)], latencies[:, names.index(ours)])
        return _scaled(ratio, flops[ours] / flops[theirs])

    tools = [[name for name in names if name.startswith(tool)] for tool in ("jstc", "tp")]
    return {ours: {theirs: beside(ours, theirs) for theirs in tools[1]} for ours in tools[0]}


def _scaled(ratio: Ratio, factor: float) -> Ratio:
    return Ratio(ratio.median * factor, ratio.low * factor, ratio.high * factor)


def table(found: list[Line], beside: dict[str, dict[str, Ratio]], *, rounds: int) -> list[str]:
    """Lines of text for one batch size."""
    text = [f"\nbatch {found[0].batch}, {rounds} rounds",
            f"{'':22}{'ms':>9}{'FLOPs':>8}  {'speed-up':>20}  {'share of the ideal':>20}"]  # fmt: skip
    text += [
        f"{line.name:22}{line.median_ms:9.2f}{line.flops_ratio:7.2f}x  {_with_interval(line.speedup):>20}  "
        f"{_with_interval(line.share):>20}"
        for line in found
    ]
    rivals = list(next(iter(beside.values()), {}))
    text += [f"{'share over that of':22}" + "".join(f"{name:>22}" for name in rivals)] if rivals else []
    for ours, ratios in beside.items():
        text.append(f"{ours:22}" + "".join(f"{_with_interval(ratios[name]):>22}" for name in rivals))
    return text


def _with_interval(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f}-{ratio.high:.3f})"


def _made(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Facts of a network, which is made in a process of its own if it is not there."""
    path = _path(name, options)
    if not path.with_suffix(".json").is_file():
        settings = ["--model", options.model, "--flops", str(options.flops), "--memory", str(options.memory)]
        command = children.command(_NETWORK, name, str(path), *settings)
        subprocess.run(command, check=True, env=children.environment())
    facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return facts


def _path(name: str, options: argparse.Namespace) -> Path:
    folder: Path = options.work / f"{options.model}-{options.flops:g}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.onnx"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--networks", default=_NETWORKS)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--threads", type=int, default=0, help="onnxruntime's threads; 0: its own choice")
    parser.add_argument("--seconds", type=float, default=60.0, help="measuring time per batch size")
    parser.add_argument("--memory", type=float, default=12.0, help="GB that the making of a network may take")
    parser.add_argument("--work", type=Path, default=Path("latency_networks"), help="where networks are kept")
    parser.add_argument("--out", type=Path, help="where the result goes as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
