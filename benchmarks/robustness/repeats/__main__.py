"""Runs small networks twice with one seed, search to slim network, and compares what is left.

    python -m benchmarks.robustness.repeats [--networks resnet18 ...] [--pixels 8 16 32 64]
        [--precisions bfloat16 float32] [--rounds 2] [--steps 4] [--seed 0] [--json FILE]

Each is the recipe of the quickstart with another model, size of images and precision, shortened, on one
thread. Every tensor of the checkpoints and of the slim network must have the same bits both times; between
two runs the memory that torch gives back is filled with values that would show. The table says, besides, how
large the largest weight is, and the accuracy of the network and of its file in float32 (of the first run),
which are to be one. The exit code is 1 when any of that does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from jstc.core import files
from jstc.errors import InputError, Interrupted, JstcError
from jstc.models.user_code import Permissions
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands

__all__ = ["DILATED", "Case", "Outcome", "compared", "main", "soil", "table"]

DILATED = f"{Path(__file__).with_name('dilated.py')}:net"
NETWORKS = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "dilated")
PIXELS, PRECISIONS = (8, 16, 32, 64), ("bfloat16", "float32")
STAGES = ("search", "finetune", "slim", "export")
_LARGEST = 100.0  # of a weight, after some steps from scratch


@dataclass(frozen=True)
class Case:
    """What is run twice: a network, the side of its images, a precision, rounds, steps of each, a seed."""

    network: str
    pixels: int
    precision: str
    rounds: int = 2
    steps: int = 4
    seed: int = 0

    def recipe(self) -> Recipe:
        """The quickstart's recipe for it."""
        settings = {
            "input.image_size": self.pixels, "train.precision": self.precision, "train.warmup_epochs": 0,
            "search.rounds": self.rounds, "search.steps_per_round": self.steps, "finetune.epochs": 2,
            "finetune.steps_per_epoch": self.steps, "search.recalibration_images": 128,
            "export.parity_images": 16, "baseline": "false", "threads": 1, "device": "cpu",
        }  # fmt: skip
        flags = {"model": DILATED if self.network == "dilated" else self.network, "seed": self.seed}
        overrides = [f"{key}={value}" for key, value in settings.items()]
        return loading.load(loading.shipped()["quickstart"], overrides, flags)


@dataclass(frozen=True)
class Outcome:
    """What came of a case: tensors and files that differ, of how many; what went wrong, if anything did."""

    network: str
    pixels: int
    precision: str
    compared: int = 0
    different: tuple[str, ...] = ()
    largest: float | None = None
    accuracy: float | None = None
    file_accuracy: float | None = None
    unreached: float | None = None
    seconds: float = 0.0
    problem: str = ""
    refused: bool = False

    @property
    def sound(self) -> bool:
        """Whether all that is asked of it holds; a network that cannot have images so small is refused."""
        return self.refused or (
            not self.problem
            and not self.different
            and self.compared > 0
            and (self.largest or 0.0) < _LARGEST
            and self.accuracy == self.file_accuracy
        )


def compared(case: Case, folder: Path) -> Outcome:
    """Run `case` twice in `folder`, and compare."""
    began = time.monotonic()
    known = (case.network, case.pixels, case.precision)
    left: list[dict[str, bytes]] = []
    try:
        for name, stages in (("first", STAGES), ("second", STAGES[:-1])):
            soil()
            recipe = case.recipe()
            commands.run(recipe, out=folder / name, only=stages, permissions=Permissions(model=recipe.model))
            left.append(dict(_left(folder / name)))
    except Interrupted:
        raise
    except InputError as error:
        return Outcome(*known, problem=error.problem, refused=True, seconds=time.monotonic() - began)
    except JstcError as error:
        told = "; ".join((error.problem, *error.details[:1]))
        return Outcome(*known, problem=told, seconds=time.monotonic() - began)
    first, second = left
    names = first.keys() | second.keys()
    different = tuple(sorted(name for name in names if first.get(name) != second.get(name)))
    slim = files.read_json(folder / "second" / "slim" / "result.json")
    [file] = files.read_json(folder / "first" / "export" / "result.json")["files"]
    tensors = load_file(folder / "second" / "slim" / "model.safetensors")
    weights = [tensor.abs().max().item() for name, tensor in tensors.items() if "running_" not in name]
    return Outcome(
        *known,
        compared=len(names),
        different=different,
        largest=max(weights),
        accuracy=slim["accuracy"],
        file_accuracy=file["accuracy"],
        unreached=slim["unreached"]["share"],
        seconds=time.monotonic() - began,
    )


def _left(run: Path) -> Iterator[tuple[str, bytes]]:
    """Bytes by name of every tensor that a run has left."""
    for path in sorted(run.rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            yield f"{path.relative_to(run)}:{name}", tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def soil() -> None:
    """Fill memory that is free with large values: who reads what was never written finds those."""
    kept = [torch.full((2**power // 4,), 1e30) for power in range(8, 23) for _ in range(8)]
    del kept


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as a table in Markdown."""
    lines = [
        "| network | pixels | precision | same bits | largest weight | network | file | only padding | s |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in outcomes:
        start = f"| {one.network} | {one.pixels} | {one.precision} | "
        if one.problem:
            lines.append(f"{start}{one.problem.splitlines()[0]} | | | | | {one.seconds:.0f} |")
            continue
        same = f"{one.compared} of {one.compared}"
        if one.different:
            same = f"{one.compared - len(one.different)} of {one.compared}"
        figures = (
            f"{one.largest:.3g} | {100 * (one.accuracy or 0):.2f} % | {100 * (one.file_accuracy or 0):.2f} %"
        )
        lines.append(f"{start}{same} | {figures} | {100 * (one.unreached or 0):.1f} % | {one.seconds:.0f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases that are asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--pixels", nargs="+", type=int, default=PIXELS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    for network in chosen.networks:
        for pixels in chosen.pixels:
            for precision in chosen.precisions:
                case = Case(network, pixels, precision, chosen.rounds, chosen.steps, chosen.seed)
                with tempfile.TemporaryDirectory(prefix="jstc-repeats-") as folder:
                    outcomes.append(compared(case, Path(folder)))
                print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(outcomes))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1))
    return 0 if all(one.sound for one in outcomes) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
