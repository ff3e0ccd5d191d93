"""The cases: whole runs of several kinds, commands that read them, the analysis of networks."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .runs import Problem, Recording, Run

__all__ = ["CASES", "Recording", "record"]

_SMALL: dict[str, object] = {
    "baseline": "false", "threads": 1, "search.rounds": 4, "finetune.epochs": 2, "bench.memory": "false",
}  # fmt: skip
_POLICY = {"search.thresholds": "threshnet", "search.candidates": 2, "search.candidate_images": 64}
_RUN = ("run", "recipe.yaml", "--out", "run", "--json", "-q")


def _quickstart(run: Run) -> None:
    run.recipe()
    run.must("run", *_RUN, *run.set({"threads": 1}))


def _sweep(run: Run) -> None:
    """Two budgets, ranked by Taylor; all precisions, and files with their own preparation of images."""
    run.recipe()
    settings = _SMALL | {
        "flops": "[0.7,0.5]", "search.importance": "taylor", "search.importance_images": 64,
        "export.precisions": "fp32,fp16,int8", "export.with_preprocess": "true",
        "export.calibration_images": 64,
    }  # fmt: skip
    run.must("run", *_RUN, *run.set(settings))


def _latency(run: Run) -> None:
    run.recipe()
    if run.recording.like is not None:
        shutil.copytree(run.recording.source("latency") / "cache", run.folder / "cache")
    run.must("run", *_RUN, *run.set(_SMALL | {"flops": "null", "latency": 0.7}))


def _two_processes(run: Run) -> None:
    run.recipe()
    run.must("run", *_RUN, *run.set(_SMALL | _POLICY | {"device": "cpu"}), processes=2)


def _resumed(run: Run) -> None:
    """Killed in the search, asked to stop in finetune, then done; with gates, noise and a policy."""
    run.recipe()
    settings = _SMALL | _POLICY | {
        "search.importance": "learned", "search.perturbation": "true", "checkpoint.every_steps": 5,
    }  # fmt: skip
    words = [*_RUN, *run.set(settings | {"finetune.epochs": 4})]
    run.broken_off("killed", *words, by=signal.SIGKILL, after=("run/search/history.jsonl", 2))
    run.broken_off("stopped", *words, by=signal.SIGTERM, after=("run/finetune/history.jsonl", 1))
    run.must("run", *words)


# -- commands -------------------------------------------------------------------------------------------


def _documents(run: Run) -> None:
    """What commands print, of runs of an earlier recording: reports of equal runs must be equal."""
    for case, name in (("quickstart", "run"), ("sweep", "sweep")):
        run.copy(case, "run", to=name)
    _listings(run)
    _reports(run)
    _measuring(run)
    _gates(run)
    _wrong_input(run)
    run.drop("run", "sweep")


def _listings(run: Run) -> None:
    for name in ("models", "datasets", "doctor"):
        _both(run, name, name)
    _both(run, "inspect-resnet20", "inspect", "resnet20", "--dataset", "digits", "--svg", "resnet20.svg")
    _both(run, "inspect-mobilenet_v2", "inspect", "mobilenet_v2")
    run.jstc("inspect-all", "inspect", "resnet18", "--ignore", "layer4", "--all", clock=False)
    run.jstc("help", "--help", clock=False)
    listed = (run.folder / "help.txt").read_text(encoding="utf-8").partition("Commands:")[2]
    for name in (line.split()[0] for line in listed.splitlines() if line[:2] == "  " and line[2:3].strip()):
        run.jstc(f"help-{name}", name, "--help", clock=False)


def _reports(run: Run) -> None:
    for name in ("run", "sweep", "sweep/flops0.5"):
        called = "report-" + name.replace("/", "-")
        _both(run, called, "report", name)
        run.jstc(f"{called}-markdown", "report", name, "--markdown", clock=False)
        run.jstc(f"{called}-html", "report", name, "--html", "-o", f"{called}.html", clock=False)


def _measuring(run: Run) -> None:
    files = ("run/bench/target.onnx", "run/export/model.onnx")
    _both(run, "bench", "bench", *files, "--seconds", "0.5", "--no-memory", "-q", clock=True)
    _both(run, "eval-run", "eval", "run", "-q")
    _both(run, "eval-file", "eval", files[1], "--dataset", "digits", "--limit", "100", "-q")


def _gates(run: Run) -> None:
    pair = ("compare", "run", "sweep/flops0.5", "--allow-missing", "-q")
    files = ("--markdown", "compare.md", "--junit", "compare.xml")
    _both(run, "compare", *pair, "--no-measure", *files)
    _both(run, "compare-measured", "compare", "run", "run", "--seconds", "0.1", "-q", clock=True)


def _wrong_input(run: Run) -> None:
    run.recipe()
    digits = ("--dataset", "digits", "--out", "none")
    run.jstc("wrong-model", "search", "resnet21", *digits, "--flops", "0.5", clock=False)
    run.jstc("wrong-budget", "search", "resnet20", *digits, "--flops", "0.001", clock=False)
    recipe = ("run", "recipe.yaml", "--out", "none")
    run.jstc("wrong-key", *recipe, "--set", "serach.rounds=3", clock=False)
    run.jstc("wrong-type", *recipe, *run.set({"search.rounds": "x"}), clock=False)
    run.jstc("wrong-run", "report", "none", clock=False)


def _both(run: Run, name: str, *words: str, clock: bool = False) -> None:
    run.jstc(name, *words, clock=clock)
    run.jstc(f"{name}-json", *words, "--json", clock=clock)


def _channels(run: Run) -> None:
    """Each network adds a file; those that are there stay, so that this can be broken off."""
    code = run.script("networks.py", ".")
    if code:
        raise Problem(f"networks.py ended with {code}")


CASES: dict[str, Callable[[Run], None]] = {
    "quickstart": _quickstart,
    "sweep": _sweep,
    "latency": _latency,
    "two_processes": _two_processes,
    "resumed": _resumed,
    "documents": _documents,
    "channels": _channels,
}
_CONTINUED = ("channels",)


def record(recording: Recording, names: Sequence[str]) -> int:
    """Record the cases that are not done; 1 when one of them cannot be."""
    _require_code(recording)
    failed = 0
    for name in (name for name in CASES if name in names):
        folder = recording.out / name
        if (folder / "done").exists():
            print(f"{name}: there", flush=True)
            continue
        if name not in _CONTINUED:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            CASES[name](Run(recording, name))
        except Problem as problem:
            failed += 1
            print(f"{name}: {problem}", file=sys.stderr, flush=True)
            continue
        (folder / "done").touch()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


def _require_code(recording: Recording) -> None:
    """Exits where another jstc than the checkout's would run: an installed one, say."""
    command = [sys.executable, "-P", "-c", "import jstc; print(jstc.__file__)"]
    variables = recording.environment(recording.out)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    found = done.stdout.strip()
    if not Path(found).is_relative_to(recording.code.resolve()):
        sys.exit(f"{recording.code} is to be recorded, but Python finds {found}")
