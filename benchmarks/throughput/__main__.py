"""How fast a search trains beside plain training of its target network, and what it costs besides.

    python -m benchmarks.throughput [--model resnet20] [--dataset random] [--data DIR] [--batch 128]
        [--steps 10] [--repeats 3] [--image-size PX] [--workers 2] [--device auto] [--threads 0] [--flops 0.5]
        [--parts search,loader,memory,scaling] [--processes N] [--set KEY=VALUE] [--clock wall|cpu]
        [--work DIR] [--out RESULT.json]

- search: real rounds, as `jstc search` has them, in turn with as many steps of plain training of the target
  network, from a loader of the same kind: images a second of training, of whole rounds, and where the rest of
  a round goes. Judging sub-networks is work that the recipe asks for; it is shown by itself. Rounds here
  have few steps; what a round spends outside of them is also given as a share of one of the usual length.
- loader: batches that nobody trains on, of the data set and of one in memory.
- memory: the peak of each, in processes of their own.
- scaling: the same plain training by several processes under torchrun; two on a CPU, one per GPU otherwise.

The data set `random` is one of random bytes in memory. All ratios are medians of paired turns, with their
95 % interval in brackets: on a machine that does other work, too, absolute times tell little. There, and with
one thread, `--clock cpu` counts the processor's time for the search instead: without waiting for files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import children
from benchmarks.throughput import loading as throughput_loader
from benchmarks.throughput.setups import RANDOM, Setup, Subject
from benchmarks.throughput.tables import loader_table, memory_table, scaling_table, search_table
from benchmarks.throughput.training import Plain, Round, Searching
from jstc.core import files
from jstc.ort.machine import environment

__all__ = ["search_rounds"]

_PARTS = ("search", "loader", "memory", "scaling")
_KINDS = ("nothing", "loader", "plain", "search")
_QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}  # torchrun says that it sets the latter
_CHILD = "benchmarks.throughput.child"


def main() -> None:
    options = _options()
    setup = Setup(**{name: getattr(options, name) for name in Setup.__dataclass_fields__})
    machine = environment()
    subject = Subject.of(setup)
    where = _device_name(subject.where)
    result = {"setup": asdict(setup), "environment": machine, "device": where,
              "threads": torch.get_num_threads(), "images": subject.dataset.train.num_images,
              "usual_steps": subject.usual_steps(setup)}  # fmt: skip
    print(_title(setup, subject, where))
    if (machine["load_average"] or 0.0) > (machine["cores"] or 1) / 2:
        print(f"the machine was busy (load {machine['load_average']:g} before the start): times are noisy")
    for part in options.parts.split(","):
        result[part], lines = _MEASURES[part](setup, subject, options)
        print("\n".join(["", *lines]), flush=True)
        if options.out is not None:
            files.write_json(options.out, result)


def _title(setup: Setup, subject: Subject, device: str) -> str:
    shape = "x".join(map(str, subject.dataset.info.input_shape))
    return (
        f"{setup.model}, {setup.dataset} ({shape}, {subject.dataset.train.num_images} images), batch "
        f"{setup.batch}, {setup.steps} steps a turn, {device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def _device_name(where: torch.device) -> str:
    return torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"


def search_rounds(subject: Subject, directory: Path, *, steps: int) -> list[Round]:
    """All rounds of the subject's recipe but the first coarse and the first fine one, in turn with plain
    training of as many steps."""
    plain, searching, rounds = Plain(subject.other_data()), Searching(subject, directory), []
    number = subject.recipe.search.rounds
    for each in range(number):
        found = searching.round(plain.seconds(steps))
        if each not in (0, number // 2):
            rounds.append(found)
    return rounds


def _search(setup: Setup, subject: Subject, options: argparse.Namespace) -> tuple[Any, list[str]]:
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        rounds = search_rounds(subject, Path(folder), steps=setup.steps)
    lines, found = search_table(
        rounds, target_flops=subject.channels.cost().flops, steps=setup.steps,
        usual_steps=subject.usual_steps(setup),
    )  # fmt: skip
    return found | {"rounds": [asdict(each) for each in rounds]}, lines


def _loader(setup: Setup, subject: Subject, _: argparse.Namespace) -> tuple[Any, list[str]]:
    found = throughput_loader.measured(subject, steps=setup.steps, repeats=setup.repeats)
    return found, loader_table(found, workers=setup.workers)


def _memory(setup: Setup, _: Subject, __: argparse.Namespace) -> tuple[Any, list[str]]:
    found = {}
    for kind in _KINDS:
        command = children.command(_CHILD, "memory", setup.to_json(), kind)
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=children.environment()
        )
        found[kind] = json.loads(done.stdout)
    return found, memory_table(found)


def _scaling(setup: Setup, subject: Subject, options: argparse.Namespace) -> tuple[Any, list[str]]:
    count = options.processes or (torch.cuda.device_count() if subject.where.type == "cuda" else 2)
    if count < 2:
        return None, ["scaling: there is one GPU"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
        command = children.command(_CHILD, "scaling", setup.to_json(), str(path), launcher=torchrun)
        subprocess.run(command, check=True, env=_QUIET | children.environment())
        found = json.loads(path.read_text(encoding="utf-8"))
    return found, scaling_table(found)


_MEASURES = dict(zip(_PARTS, (_search, _loader, _memory, _scaling), strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, kind in (("model", str), ("data", str), ("flops", float), ("batch", int), ("steps", int),
                       ("repeats", int), ("image_size", int), ("workers", int), ("device", str),
                       ("threads", int)):  # fmt: skip
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=kind, default=Setup.__dataclass_fields__[name].default)
    parser.add_argument("--dataset", default=RANDOM)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the part search")
    parser.add_argument("--parts", default=",".join(_PARTS))
    parser.add_argument("--processes", type=int, default=0, help="of scaling; 0: one per GPU, 2 on a CPU")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="a key of the recipe")
    parser.add_argument("--work", type=Path, help="where the search's checkpoints go while it runs")
    parser.add_argument("--out", type=Path, help="where the result goes as JSON")
    options = parser.parse_args()
    options.sets = tuple(options.sets)
    if unknown := set(options.parts.split(",")) - set(_PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))}: expected some of {','.join(_PARTS)}")
    return options


if __name__ == "__main__":
    main()
