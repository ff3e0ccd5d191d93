"""A small real run as a user starts it, in a session of its own, with a signal for all of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import children
from benchmarks.robustness.faults.child import MODEL

__all__ = ["Outcome", "make_images", "recipe", "signalled", "whole"]

_SECONDS = 300
_POLL_SECONDS = 0.01
_RECIPE = """\
model: {model}
dataset: imagefolder
data: {data}
flops: 0.5
baseline: true
device: cpu
threads: 1
channels: {{round_to: 4}}
input: {{image_size: 16, workers: {workers}}}
train: {{batch_size: 8, lr: 0.05}}
search: {{rounds: 4, steps_per_round: 8, recalibration_images: 16, eval_images: 16}}
finetune: {{epochs: 2}}
checkpoint: {{every_steps: null, every_seconds: null}}
export: {{precisions: [fp32], calibration_images: 16}}
bench: {{provider: cpu, batch_sizes: [1], seconds: 0.1, memory: true}}
"""


def make_images(folder: Path) -> Path:
    """A tree of 96 images of 16 pixels, in three classes that differ in their colour."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for channel, label in enumerate(("red", "green", "blue")):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 80, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


def recipe(path: Path, images: Path, workers: int) -> Path:
    """A recipe with all stages that saves nothing in the middle of a training unless it is asked to stop."""
    path.write_text(_RECIPE.format(model=MODEL, data=images, workers=workers))
    return path


@dataclass
class Outcome:
    """How a run ended: its exit code, what it said, where it was; `seconds` from the signal to the end."""

    code: int | None
    error: str
    place: str
    seconds: float = 0.0
    ready: bool = True
    saved: bool | None = None
    problems: list[str] = field(default_factory=list)


def whole(recipe: Path, folder: Path) -> float:
    """Run or resume in `folder/run` without a signal; returns the seconds it took.

    Raises `RuntimeError` when it fails.
    """
    started = time.monotonic()
    process, log = _start(recipe, folder)
    if process.wait(_SECONDS):
        raise RuntimeError(log.read_text())
    return time.monotonic() - started


def signalled(recipe: Path, folder: Path, number: int, *, after: float | str, times: int = 1) -> Outcome:
    """Run in `folder/run`, and send a signal to the whole group of processes, `times` at once.

    `after` so many seconds, or in the middle of the third epoch or round of the stage of that name.
    """
    process, log = _start(recipe, folder)
    if isinstance(after, str):
        after = _half_an_epoch(process, folder / "run" / after / "history.jsonl")
    try:
        if process.wait(after):
            raise RuntimeError(log.read_text())
        return Outcome(0, "", "the end")
    except subprocess.TimeoutExpired:
        pass
    ready, sent = _catches(process.pid, signal.SIGTERM), time.time()
    for _ in range(times):
        os.killpg(process.pid, number)
    try:
        found = process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        found = None
    seconds = time.time() - sent
    place, stage = _place(folder)
    if place == "after report" and not found:
        return Outcome(0, log.read_text(), "the end")  # all was done, and the command said so
    outcome = Outcome(found, log.read_text(), place, seconds, ready)
    checkpoint = folder / "run" / stage / "checkpoint.safetensors"
    if stage in ("baseline", "search", "finetune"):
        outcome.saved = checkpoint.exists() and checkpoint.stat().st_mtime > sent
    outcome.problems = list(_problems(outcome, process.pid))
    return outcome


def _half_an_epoch(process: subprocess.Popen[bytes], history: Path) -> float:
    """Wait for the end of the second epoch; returns half of the seconds that it took."""
    ends: list[float] = []
    while process.poll() is None and len(ends) < 2:
        if history.exists() and history.read_bytes().count(b"\n") > len(ends):
            ends.append(time.monotonic())
        time.sleep(_POLL_SECONDS)
    return (ends[-1] - ends[0]) / 2 if ends else 0.0


def _start(recipe: Path, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    command = children.command("jstc", "run", str(recipe), "--model", MODEL, "--out", "run", "--quiet")
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=children.environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            # What a shell starts in the background ignores Ctrl-C, and its children do.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
    return process, log


def _catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _place(folder: Path) -> tuple[str, str]:
    """Where a run was, in words, and the stage at work, if there is one."""
    try:
        stages = json.loads((folder / "run" / "manifest.json").read_text())["stages"]
    except FileNotFoundError:
        return "preparation", ""
    at_work = [name for name, record in stages.items() if record["state"] in ("running", "failed")]
    if at_work:
        return at_work[0], at_work[0]
    done = [name for name, record in stages.items() if record["state"] == "done"]
    return f"after {done[-1]}" if done else "begun", ""


def _problems(outcome: Outcome, session: int) -> Iterable[str]:
    if outcome.code != 130:
        yield f"exit code {outcome.code}"
    if "Traceback" in outcome.error or "Exception ignored" in outcome.error:
        yield "a traceback"
    if outcome.error.count("error: ") != 1 or len(outcome.error.strip().splitlines()) > 3:
        yield "not one message"
    elif outcome.place != "preparation" and "Continue with:\n  jstc run " not in outcome.error:
        yield "no command that continues"
    left = _survivors(session)
    if left:
        yield f"processes left: {left}"


def _survivors(session: int, patience: float = 3.0) -> list[str]:
    """Processes of a session that do not end within some seconds."""
    deadline = time.monotonic() + patience
    while True:
        found = [name for folder in Path("/proc").glob("[0-9]*") if (name := _named(folder, session))]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(_POLL_SECONDS)


def _named(folder: Path, session: int) -> str:
    try:
        _, _, fields = (folder / "stat").read_text().rpartition(") ")
        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
    state, of = fields.split()[0], int(fields.split()[3])
    return f"{folder.name} {words[:60]}" if of == session and state != "Z" else ""
