"""Kills a script with a training loop of its own around `jstc.JointSearch`, and starts it until it ends.

    python -m benchmarks.robustness.loop [--kills 10] [--writes 4] [--seed 0] [--keep DIR]

The script (`loop/training.py`) enlarges images: AdamW whose state is carried, a score a round, and, of the
searches that begin with trained weights, plans judged by the loss first. Each search is broken off by SIGKILL
up to three times, at a random moment (`--kills` in all) or in a random one of its writes (`--writes`), half
of them with trained weights, and started again until it ends. Every file, times apart, must be that of a
search that nobody killed, bit for bit: history, plans, checkpoint, result, slim network. Every round that was
asked for, again or not, must have had the plan and weights of that search's. Prints a line a search; the
exit code is 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.robustness.faults.child import fork, wait
from benchmarks.robustness.faults.compare import differences, fingerprint
from benchmarks.robustness.loop import training

__all__ = ["Searches", "main"]

_BREAKS = 3
_LATEST = 0.95  # of a search's time: whatever comes later mostly finds it done


class Searches:
    """Searches of one kind, and the one among them that nobody killed."""

    def __init__(self, root: Path, *, trained: bool) -> None:
        self.root, self.trained = root / ("trained" if trained else "untrained"), trained
        self.root.mkdir(parents=True)
        self.network: nn.Module = training.given(trained=trained)
        started = time.perf_counter()
        whole = self.root / "whole"
        if code := wait(self._start(whole)):
            sys.exit(
                f"the search that nobody killed ended with {code}:\n{whole.with_suffix('.log').read_text()}"
            )
        self.seconds = time.perf_counter() - started
        self.files, self.asked = _files(whole), _asked(whole)
        self.events = int(json.loads(whole.with_suffix(".events.json").read_text()))

    def killed(self, name: str, kinds: Sequence[str], draw: random.Random) -> tuple[list[str], list[str]]:
        """Break a search off once for each of `kinds`, let it end: where it was broken off, what differs."""
        folder, places, left = self.root / name, list[str](), self.seconds
        for kind in kinds:
            seconds = _LATEST * left * draw.random()
            event = draw.randint(1, self.events) if kind == "write" else None
            pid = self._start(folder, kill_at=event)
            if event is None:
                time.sleep(seconds)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if wait(pid) != -signal.SIGKILL:
                break
            left -= seconds if event is None else left / 2
            places.append(f"{'in a write, ' if event else ''}{_place(folder)}")
        if code := wait(self._start(folder)):
            said = folder.with_suffix(".log").read_text().strip().splitlines()
            return places, [f"ended with {code}: {said[-1] if said else 'nothing said'}"]
        different = differences(self.files, _files(folder))
        return places, different + (["rounds that were asked for"] if _asked(folder) != self.asked else [])

    def _start(self, folder: Path, kill_at: int | None = None) -> int:
        folder.mkdir(exist_ok=True)
        work = lambda: training.search(folder, self.network, trained=self.trained)  # noqa: E731
        return fork(folder, work, kill_at=kill_at)


def _files(folder: Path) -> dict[str, Any]:
    # A save that was killed leaves what it had written in a folder beside the one that it was to replace.
    apart = ("asked.log", ".tmp-slim-")
    return {name: found for name, found in fingerprint(folder).items() if not name.startswith(apart)}


def _asked(folder: Path) -> set[str]:
    # A process that dies in this line leaves a part of it.
    lines = (folder / "asked.log").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if len(line.split()) == 4 and len(line.split()[-1]) == 64}


def _place(folder: Path) -> str:
    """How far a search has come."""
    done = {name: _lines(folder / "search" / f"{name}.jsonl") for name in ("candidates", "history")}
    if (folder / "search" / "result.json").exists():
        return "after the search"
    if done["history"] == training.ROUNDS:
        return "among the finalists"
    if done["history"]:
        return f"in round {done['history']}"
    return f"after {done['candidates']} plans judged" if done["candidates"] else "in round 0 or before"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--writes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the searches, which are otherwise deleted")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="jstc-loop-") as scratch:
        return _all(options.keep or Path(scratch), options)


def _all(root: Path, options: argparse.Namespace) -> int:
    draw, started, broken, wrong, number = random.Random(options.seed), time.perf_counter(), 0, 0, 0
    kinds = ["kill"] * options.kills + ["write"] * options.writes
    draw.shuffle(kinds)
    both = [Searches(root, trained=trained) for trained in (False, True)]
    for each in both:
        name = each.root.name
        print(f"{name}, unbroken: {each.seconds:.1f} s, {len(each.files)} files", flush=True)
    while kinds:
        searches = both[number % 2]
        number += 1
        places, different = searches.killed(f"search{number}", kinds[:_BREAKS], draw)
        broken, kinds, wrong = broken + len(places), kinds[len(places) :], wrong + bool(different)
        verdict = ", ".join(different) or "as unbroken"
        print(f"{number:3} {searches.root.name:10} {'; '.join(places):75} {verdict}", flush=True)
    minutes = (time.perf_counter() - started) / 60
    print(f"{number} searches, killed {broken} times: {wrong} not as unbroken; {minutes:.1f} minutes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
