"""Measurements in processes of their own: peak memory, and several processes together.

    python -m benchmarks.throughput.child memory SETUP KIND         KIND: nothing, loader, plain or search
    torchrun ... -m benchmarks.throughput.child scaling SETUP FILE

SETUP is a JSON document. The first prints one, process 0 of the second writes one to FILE.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput.setups import Setup, Subject
from benchmarks.throughput.training import Plain, Searching
from jstc.core import files, processes
from jstc.train import collectives, device, process_group
from jstc.train.loop import stream

__all__ = ["memory", "peak_resident", "scaling"]


def main() -> None:
    kind, setup = sys.argv[1], Setup.of_json(sys.argv[2])
    if kind == "memory":
        json.dump(memory(setup, sys.argv[3]), sys.stdout)
        return
    found = scaling(setup)
    if not processes.follows():
        files.write_json(Path(sys.argv[3]), found)


def memory(setup: Setup, kind: str) -> dict[str, float | None]:
    """Megabytes (10^6 bytes) at the peak: of this process, of its largest worker, on the GPU.

    The search has a coarse and a fine round; all have as many steps a round as the set-up says.
    """
    setup = replace(setup, repeats=0)
    subject = Subject.of(setup)
    if subject.where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    _exercise(subject, kind, setup.steps)
    subject.sync()
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    on_gpu = torch.cuda.max_memory_allocated() / 1e6 if subject.where.type == "cuda" else None
    return {"process": peak_resident() / 1e6, "worker": workers or None, "gpu": on_gpu}


def _exercise(subject: Subject, kind: str, steps: int) -> None:
    if kind == "loader":
        batch = subject.recipe.train.batch_size
        for _ in stream(subject.dataset.train, batch, seed=0, start=0, count=steps):
            pass
    elif kind == "plain":
        Plain(subject).seconds(steps)
    elif kind == "search":
        with tempfile.TemporaryDirectory() as folder:
            searching = Searching(subject, Path(folder))
            for _ in range(subject.recipe.search.rounds):
                searching.round()


def peak_resident() -> float:
    """Bytes. On Linux a new process has its parent's peak as the `ru_maxrss` that it starts with."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def scaling(setup: Setup) -> dict[str, Any]:
    """Seconds of plain training, turn by turn, and rounds of a search by all processes together.

    `alone`: process 0 with one batch, while the others wait. `alone, all threads`: the same with the threads
    of all processes, on CPUs. `weak`: all with a batch each. `strong`: all with a share of one batch.
    """
    torch.set_num_threads(1)  # torchrun's own habit, unless the recipe says otherwise
    subject = Subject.of(replace(setup, clock="wall"))
    process_group.join(subject.where)
    threads = torch.get_num_threads()
    world, batch = processes.world(), setup.batch
    sizes = (batch, batch * world, batch)
    alone, weak, strong = (Plain(subject.other_data(), batch=size) for size in sizes)
    turns = []
    for _ in range(setup.repeats + 1):
        turn = {"alone": _alone(alone, setup.steps, threads)}
        if subject.where.type == "cpu":
            turn["alone, all threads"] = _alone(alone, setup.steps, threads * world)
            device.set_threads(threads)
        with collectives.together():
            turn["weak"], turn["strong"] = weak.seconds(setup.steps), strong.seconds(setup.steps)
        turns.append(turn)
    found = {"world": world, "threads": threads, "batches": {"alone": alone.batch, "weak": weak.batch},
             "steps": setup.steps, "turns": turns[1:], "rounds": _rounds(subject)}  # fmt: skip
    process_group.leave()
    return found


def _alone(plain: Plain, steps: int, threads: int) -> float:
    """Process 0 works; the others wait for it at the next barrier."""
    with collectives.together():
        collectives.sums([0.0])
    device.set_threads(threads)
    seconds = plain.seconds(steps) if not processes.follows() else 0.0
    with collectives.together():
        collectives.sums([0.0])
    return seconds


def _rounds(subject: Subject) -> list[dict[str, Any]]:
    """A search of one batch shared by all; the first coarse and the first fine round are not counted."""
    with tempfile.TemporaryDirectory() as folder, collectives.together():
        searching = Searching(subject, Path(folder))
        rounds = [searching.round() for _ in range(subject.recipe.search.rounds)]
    half = len(rounds) // 2
    return [asdict(each) for each in rounds[1:half] + rounds[half + 1 :]]


if __name__ == "__main__":
    main()
