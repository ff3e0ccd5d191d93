"""Sends signals to all processes of a small real run, at random moments, and looks at what it leaves.

    python -m benchmarks.robustness.signals [--times 20] [--resume 5] [--workers 0 2] [--keep DIR]

Each trial starts `jstc run` on a folder of images, with or without worker processes, and sends SIGTERM,
SIGINT or SIGHUP to the process group: at a moment drawn from 0.1 s to the end, imports included, once or, as
`timeout` does, twice at once. It must end with exit code 130, one message that names the command that
continues, no traceback, and no process left; every one of `--resume` is then resumed, and must leave the
files of an unbroken run, bit for bit, times and latencies apart. Prints a line a trial and a table; the exit
code is 1 when anything is otherwise. Moments before Python has loaded jstc are counted apart: nothing has
begun then.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.robustness.faults.compare import differences, fingerprint
from benchmarks.robustness.signals.run import Outcome, make_images, recipe, signalled, whole

__all__ = ["main"]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TIMED = ("bench/", "report", "summary.json", "target.json")
"""Files with latencies in them."""


@dataclass
class Tally:
    """What the trials of one signal came to."""

    good: int = 0
    too_early: int = 0
    too_late: int = 0
    saved: Counter[bool] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    same: int = 0
    wrong: list[str] = field(default_factory=list)
    longest: float = 0.0

    def row(self) -> str:
        """The figures, as text."""
        places = ", ".join(f"{name} {count}" for name, count in self.places.most_common())
        return (
            f"as it must be {self.good}, otherwise {len(self.wrong)}; resumed to the same files {self.same}; "
            f"saved after the signal {self.saved[True]} of {self.saved.total()} in a training stage; "
            f"longest {self.longest:.1f} s; before jstc was loaded {self.too_early}; {places}"
        )


def _files(folder: Path) -> dict[str, Any]:
    found = fingerprint(folder / "run")
    return {name: content for name, content in found.items() if not name.startswith(TIMED)}


class Trials:
    """The trials of one number of workers, whose unbroken run is made first."""

    def __init__(self, root: Path, images: Path, workers: int, draw: random.Random) -> None:
        self.root, self.draw = root / f"workers{workers}", draw
        self.root.mkdir(parents=True)
        self.recipe = recipe(self.root / "recipe.yaml", images, workers)
        self.seconds = whole(self.recipe, self.root / "unbroken")
        self.expected = _files(self.root / "unbroken")
        print(f"{workers} workers, unbroken: {self.seconds:.1f} s, {len(self.expected)} files", flush=True)

    def make(self, number: int, times: int, resume: int) -> Tally:
        """As many trials as asked for that reach the run in its life."""
        tally, name, tried = Tally(), signal.Signals(number).name, 0
        while sum(tally.places.values()) < times:
            tried += 1
            folder = self.root / f"{name}-{tried}"
            moment, sent = self.draw.uniform(0.1, self.seconds), self.draw.choice((1, 2))
            found = signalled(self.recipe, folder, number, after=moment, times=sent)
            self._count(tally, found)
            told = "; ".join(found.problems) if found.ready and found.place != "the end" else "not counted"
            if found.ready and found.place != "the end" and not tried % resume and not found.problems:
                told = self._resumed(folder, tally)
            line = f"{name} x{sent} at {moment:5.1f} s in {found.place:12} {found.seconds:4.1f} s"
            print(f"{line}  {told or 'good'}", flush=True)
        return tally

    def _count(self, tally: Tally, found: Outcome) -> None:
        if found.place == "the end":
            tally.too_late += 1
            return
        if not found.ready:
            tally.too_early += 1
            return
        tally.places[found.place] += 1
        tally.longest = max(tally.longest, found.seconds)
        if found.saved is not None:
            tally.saved[found.saved] += 1
        if found.problems:
            tally.wrong.append(f"{'; '.join(found.problems)}: {found.error[-600:]}")
        else:
            tally.good += 1

    def _resumed(self, folder: Path, tally: Tally) -> str:
        whole(self.recipe, folder)
        different = differences(self.expected, _files(folder))
        if different:
            tally.wrong.append(f"other files after it was resumed: {different}")
            return f"other files: {different}"
        tally.same += 1
        return "resumed to the same files"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=20, help="for each signal, with and without workers")
    parser.add_argument("--resume", type=int, default=5, help="resume every one of so many")
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 2), help="processes that decode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which are otherwise deleted")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="jstc-signals-") as scratch:
        return _all(options.keep or Path(scratch), options)


def _all(root: Path, options: argparse.Namespace) -> int:
    draw, images = random.Random(options.seed), make_images(root / "photos")
    tallies: dict[str, Tally] = {}
    for workers in options.workers:
        trials = Trials(root, images, workers, draw)
        for number in SIGNALS:
            name = f"{number.name} with {workers} workers"
            tallies[name] = trials.make(number, options.times, options.resume)
    for name, tally in tallies.items():
        print(f"{name}: {tally.row()}")
    for text in (text for tally in tallies.values() for text in tally.wrong):
        print(f"\n{text}")
    return 1 if any(tally.wrong for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
