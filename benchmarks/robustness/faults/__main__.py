"""Kills a small real run again and again, resumes it, and compares what it leaves with an unbroken run.

    python -m benchmarks.robustness.faults [--kills 30] [--writes 10] [--signals 4] [--seed 0] [--keep DIR]

Each trial is a run of a small network on the digits, search to export, saved every four steps. It is broken
off twice: by SIGKILL at a random moment (`--kills` in all), by SIGKILL at a random one of its writes, with
the file half written, not yet on disk, or not yet renamed (`--writes`), or by SIGTERM (`--signals`). Then it
is resumed until it is done. Every file, times and dates apart, must be that of the unbroken run, bit for bit.
Prints a table; the exit code is 1 when a file differs or a run does not end.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.robustness.faults.child import STAGES, Chosen, recipe, start, wait
from benchmarks.robustness.faults.compare import differences, fingerprint

__all__ = ["Trial", "Whole", "main", "trial", "unbroken", "warm"]

TRAINING_MODULES = (
    "jstc.jst.joint", "jstc.finetune", "torchvision.models", "sklearn.datasets", "fvcore.nn", "torch._dynamo",
)  # fmt: skip
EXPORT_MODULES = ("jstc.export", "onnxruntime", "onnxscript", "torch.onnx")

KILLED = -signal.SIGKILL
INTERRUPTED = 130


@dataclass(frozen=True)
class Whole:
    """The unbroken run: its files, the seconds it took, and the number of its writes' events."""

    files: dict[str, Any]
    seconds: float
    events: int


@dataclass
class Trial:
    """A run broken off: how and where each time, and the files that are not those of the unbroken run."""

    breaks: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    problem: str = ""


def warm(chosen: Chosen) -> None:
    """Load what is slow to load and all children need, so that they have it from the start."""
    names = TRAINING_MODULES + (EXPORT_MODULES if "export" in chosen.stages else ())
    for name in names:
        importlib.import_module(name)


def unbroken(directory: Path, chosen: Chosen) -> Whole:
    """Run without interruption."""
    started = time.perf_counter()
    code = wait(start(directory, chosen))
    if code:
        sys.exit(f"the unbroken run ended with {code}:\n{directory.with_suffix('.log').read_text()}")
    events = json.loads(directory.with_suffix(".events.json").read_text())
    return Whole(fingerprint(directory), time.perf_counter() - started, events)


def trial(directory: Path, chosen: Chosen, whole: Whole, kinds: Sequence[str], draw: random.Random) -> Trial:
    """Break off a run once for each of `kinds` (`kill`, `write`, `signal`); resume it until it is done."""
    result, left = Trial(), whole.seconds
    for kind in kinds:
        # Rather early: training comes first, and is what matters.
        seconds, at = left * draw.random() ** 1.5, draw.randint(1, whole.events)
        told = _broken_off(directory, chosen, at if kind == "write" else None, (kind, seconds))
        if told is None:
            break
        left -= seconds if kind != "write" else left / 2
        result.breaks.append(told)
    code = wait(start(directory, chosen))
    if code:
        log = directory.with_suffix(".log").read_text().strip().splitlines()
        result.problem = f"ended with {code}: {log[-1] if log else 'nothing said'}"
    else:
        result.different = differences(whole.files, fingerprint(directory))
    return result


def _broken_off(directory: Path, chosen: Chosen, event: int | None, how: tuple[str, float]) -> str | None:
    """One sitting; where it was broken off, None when it came to its end before that."""
    kind, seconds = how
    pid = start(directory, chosen, kill_at=event)
    if event is None:
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if kind == "signal" else signal.SIGKILL)
    if wait(pid) not in (KILLED, INTERRUPTED, -signal.SIGTERM):
        return None
    return f"{kind} at {f'{seconds:.1f} s' if event is None else f'event {event}'} in {_place(directory)}"


def _place(directory: Path) -> str:
    """The stage that was at work, and how far it was."""
    try:
        stages = json.loads((directory / "manifest.json").read_text())["stages"]
    except FileNotFoundError:
        return "the preparation"
    for name, record in stages.items():
        if record["state"] in ("running", "failed"):
            history = directory / name / "history.jsonl"
            lines = history.read_bytes().count(b"\n") if history.exists() else None
            return name if lines is None else f"{name} after {lines}"
    done = [name for name, record in stages.items() if record["state"] == "done"]
    return f"between stages, after {done[-1]}" if done else "the preparation"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--writes", type=int, default=10)
    parser.add_argument("--signals", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage of the runs")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which are otherwise deleted")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="jstc-faults-") as scratch:
        return _all(chosen.keep or Path(scratch), chosen)


def _all(root: Path, options: argparse.Namespace) -> int:
    root.mkdir(parents=True, exist_ok=True)
    draw, chosen, started = random.Random(options.seed), recipe(options.until), time.perf_counter()
    warm(chosen)
    whole = unbroken(root / "unbroken", chosen)
    names = len(whole.files)
    print(f"unbroken: {whole.seconds:.1f} s, {names} files, {whole.events} events of writing", flush=True)
    kinds = ["kill"] * options.kills + ["write"] * options.writes + ["signal"] * options.signals
    draw.shuffle(kinds)
    number, broken, wrong = 0, 0, 0
    while kinds:
        number += 1
        found = trial(root / f"trial{number}", chosen, whole, kinds[:2], draw)
        broken, kinds = broken + len(found.breaks), kinds[len(found.breaks) :]
        wrong += bool(found.problem or found.different)
        verdict = found.problem or ", ".join(found.different) or "same files"
        print(f"{number:3}  {'; '.join(found.breaks):75}  {verdict}", flush=True)
    minutes = (time.perf_counter() - started) / 60
    print(f"{number} runs, broken off {broken} times: {wrong} not as unbroken; {minutes:.1f} minutes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
