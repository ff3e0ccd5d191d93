"""How long it takes to mend a cut network, with how much memory, and what each layer explains after it.

    python -m benchmarks.throughput.reconstruction [--model resnet50] [--weights FILE] [--dataset imagefolder]
        [--data DIR] [--image-size PX] [--flops 0.5] [--images 512] [--memory GIB] [--batch 32] [--repeats 1]
        [--threads 0] [--device auto] [--out RESULT.json]

The network has the given weights, or new ones whose batch-norm statistics are estimated on the images: these
are good for times and memory, and say little of what a trained network's layers would explain. It is cut
evenly, channels by norms. In turn with the reconstruction the uncut network runs forward on the same images,
so that their ratio is of one machine at one time. With given weights the accuracy on images of the training
set that no fit has seen is told, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.throughput.child import peak_resident
from benchmarks.throughput.setups import RANDOM, Setup, Subject
from jstc.channels.reconstruction.reconstruct import Reconstruction
from jstc.core import files
from jstc.models import weights as weights_files
from jstc.ort.machine import environment
from jstc.plan import Plan
from jstc.train.loop import evaluate
from jstc.train.recalibration import recalibrate

__all__ = ["Turn", "Work", "turn"]

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Work:
    """A network with its plan and the images that it is mended on; `memory` in bytes."""

    network: nn.Module
    subject: Subject
    plan: Plan
    batches: Batches
    memory: int


@dataclass(frozen=True)
class Turn:
    """Seconds of a forward of the uncut network over all images, and of the reconstruction."""

    forward: float
    reconstruction: float
    cpu: float


def turn(work: Work) -> tuple[Turn, nn.Module, Reconstruction]:
    """One measurement, with the network that was mended in it."""
    subject, channels = work.subject, work.subject.channels
    small = channels.slice(work.network, work.plan)
    started = time.perf_counter()
    with torch.inference_mode():
        for images, _ in work.batches:
            work.network.eval()(images)
    subject.sync()
    between, cpu = time.perf_counter(), time.process_time()
    found = channels.reconstruct(
        work.network, small, work.plan, work.batches, images=_number(work.batches), memory=work.memory
    )
    subject.sync()
    seconds = time.perf_counter() - between
    return Turn(between - started, seconds, time.process_time() - cpu), small, found


def _number(batches: Batches) -> int:
    return sum(len(labels) for _, labels in batches)


def main() -> None:
    options = _options()
    setup = Setup(
        model=options.model, dataset=options.dataset, data=options.data, flops=options.flops,
        batch=options.batch, image_size=options.image_size, device=options.device, threads=options.threads,
        sets=("input.workers=0",),
    )  # fmt: skip
    subject, machine = Subject.of(setup), environment()
    network = subject.network()
    split = subject.dataset.train
    batches = list(split.ordered(options.batch, limit=options.images))
    if options.weights is None:
        recalibrate(network, batches, images=options.images)
    else:
        weights_files.load_weights(network, options.weights)
    plan = _by_norms(network, subject, options.flops)
    work = Work(network, subject, plan, batches, int(options.memory * 2**30))
    base = peak_resident()
    turns, explained, small, found = [], {}, None, None
    for _ in range(options.repeats):
        measured, small, found = turn(work)
        turns.append(measured)
    assert small is not None and found is not None
    explained = {name: asdict(layer) for name, layer in found.layers.items()}
    result: dict[str, Any] = {
        "environment": machine, "threads": torch.get_num_threads(), "images_asked": options.images,
        "images": found.images, "said_memory": found.memory, "peak_before": base, "peak": peak_resident(),
        "turns": [asdict(each) for each in turns], "explained": explained, "left_out": dict(found.left_out),
    }  # fmt: skip
    if options.weights is not None:
        result["accuracy"] = _accuracies(work, small, unseen=options.unseen)
    print("\n".join(_told(result, options)))
    if options.out is not None:
        files.write_json(options.out, result)


def _by_norms(network: nn.Module, subject: Subject, flops: float) -> Plan:
    """The even plan's widths, of the channels with the largest norms."""
    channels, norms = subject.channels, subject.channels.magnitude(network)
    even = channels.uniform_plan(flops=flops)
    kept = {
        name: tuple(sorted(norms[name].argsort(descending=True)[: len(own)].tolist()))
        for name, own in even.kept.items()
    }
    return replace(even, kept=kept)


def _accuracies(work: Work, small: nn.Module, *, unseen: int) -> dict[str, float]:
    """Of the uncut network, as cut, with new statistics, mended, and mended with new statistics.

    On images of the search-validation split.
    """
    channels, data = work.subject.channels, work.subject.dataset
    split, images = data.search_val, _number(work.batches)

    def of(network: nn.Module) -> float:
        return evaluate(network, split.ordered(250, limit=min(unseen, split.num_images))).accuracy

    cut = channels.slice(work.network, work.plan)
    found = {"uncut": of(work.network), "as cut": of(cut)}
    recalibrate(cut, work.batches, images=images)
    found |= {"as cut, recalibrated": of(cut), "mended": of(small)}
    recalibrate(small, work.batches, images=images)
    return found | {"mended, recalibrated": of(small)}


def _told(result: dict[str, Any], options: argparse.Namespace) -> list[str]:
    turns = [Turn(**each) for each in result["turns"]]
    ratio = statistics.median(each.reconstruction / each.forward for each in turns)
    lines = [
        f"{options.model} at {options.flops:g} of its FLOPs, {result['images']} images, "
        f"{result['threads']} threads, load {result['environment']['load_average']}",
        f"forward of the uncut network  {statistics.median(each.forward for each in turns):8.1f} s",
        f"reconstruction                {statistics.median(each.reconstruction for each in turns):8.1f} s"
        f"  {ratio:.2f} times the forward ({statistics.median(each.cpu for each in turns):.1f} s of CPU)",
        f"peak of memory                {result['peak'] / 2**30:8.2f} GiB, before it "
        f"{result['peak_before'] / 2**30:.2f}; said {result['said_memory'] / 2**30:.2f}",
    ]
    lines += [f"{name:30}{100 * value:8.2f} %" for name, value in result.get("accuracy", {}).items()]
    lines += [
        f"{name:30}{layer['before']:9.4f} -> {layer['after']:.4f}"
        for name, layer in result["explained"].items()
    ]
    return lines + [f"{name:30}left out: {why}" for name, why in result["left_out"].items()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--dataset", default=RANDOM)
    parser.add_argument("--data")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--unseen", type=int, default=5000, help="images that the accuracy is told on")
    parser.add_argument("--memory", type=float, default=4, help="the bound on memory, in GiB")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
