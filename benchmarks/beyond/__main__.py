"""Networks beyond classifiers, each through everything that jstc says of any network.

    python -m benchmarks.beyond --table docs/research/beyond.md    # all networks, and the table
    python -m benchmarks.beyond DETR yolo11n --only onnx           # a few networks, one of the checks
    python -m benchmarks.beyond --list

Segmentation, detection, video, optical flow, texts, sounds, images made larger or made up; packages that are
not there (`pip install ultralytics segmentation-models-pytorch`) are named and left out. Every network has
random weights, and is checked in a process of its own with a limit of time and memory; nothing is downloaded.
Each adds one JSON line to the results file; what is there is not done again, unless `--fresh` is given. Exit
code 1 if one of the networks fails a check.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import logging
import multiprocessing
import os
import resource
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import jstc
from benchmarks.beyond import own, packages, table, transformer
from benchmarks.beyond.case import Make
from benchmarks.beyond.check import STAGES, check
from benchmarks.zoo.record import Record
from jstc.core import files
from jstc.ort.machine import environment

__all__ = ["FAMILIES", "checked", "main"]

FAMILIES: dict[str, tuple[str, dict[str, Make]]] = {
    "torchvision": ("torchvision", packages.TORCHVISION),
    "segmentation_models_pytorch": ("segmentation_models_pytorch", packages.SMP),
    "Ultralytics": ("ultralytics", packages.ULTRALYTICS),
    "transformers": ("transformers", transformer.TRANSFORMERS),
    "of our own": ("torch", own.NETWORKS),
}
"""By family: the module that it needs, and its networks."""

_SLOW = ("fvcore.nn", "onnxscript", "onnxruntime", "torch.onnx", "torch._dynamo", "torchvision.models")
_PACKAGES = ("transformers", "ultralytics", "segmentation-models-pytorch")


def checked(
    name: str, make: Make, *, limit: float, memory: float, only: Sequence[str] = STAGES
) -> dict[str, Any]:
    """What a process of its own finds of a network, however that ends: `limit` seconds, `memory` GiB."""
    # Forked, not begun anew: everything that all of them need is loaded once.
    context: Any = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log.txt"
        process = context.Process(target=_child, args=(make, result, log, memory, tuple(only)), daemon=True)
        process.start()
        process.join(limit)
        problem = f"not done after {limit:g} s" if process.is_alive() else ""
        if process.is_alive():
            process.kill()
            process.join()
        elif process.exitcode:
            said = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
            problem = " | ".join([f"the process ended with {process.exitcode}", *said])
        # Not every number in it need be one.
        found: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {"failures": {}}
    stage = found.pop("stage", "start")
    if problem:
        found["failures"][stage] = problem
    return {"name": name, "checked": list(only), **found}


def _child(make: Make, result: Path, log: Path, memory: float, only: tuple[str, ...]) -> None:
    # Memory of its own: libraries that are mapped are 4 GB by themselves, where torch comes with CUDA.
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 2**30),) * 2)
    with log.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    record, case = Record(result), None
    try:
        with record.stage("build"), contextlib.redirect_stdout(io.StringIO()):
            case = make()
        if case is not None:
            check(record, case, only)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # without what libraries do at exit


def _names() -> Iterator[tuple[str, str, Make]]:
    for family, (_, networks) in FAMILIES.items():
        for name, make in networks.items():
            yield family, name, make


def _missing(family: str) -> str:
    module, _ = FAMILIES[family]
    if importlib.util.find_spec(module) is not None:
        return ""
    return f"skipped: {module} is not installed"


def _known(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The environment of the last run, and what is known of each network; later checks count."""
    here: dict[str, Any] = {}
    networks: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        document = json.loads(line)
        if "name" in document:
            networks[document["name"]] = _joined(networks.get(document["name"], {}), document)
        else:
            here = document
    return here, networks


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What was found of a network, with checks that were made anew in place of their old results."""
    again = {"build", "start", "analyse", "slice", "done", *new.get("checked", ())}
    failures = {stage: text for stage, text in old.get("failures", {}).items() if stage not in again}
    kept = {key: value for key, value in old.items() if key not in again and key != "skipped"}
    checked = sorted({*old.get("checked", ()), *new.get("checked", ())}, key=STAGES.index)
    seconds = old.get("seconds", 0) + new.get("seconds", 0)
    failures |= new["failures"]
    return {**kept, **new, "failures": failures, "checked": checked, "seconds": round(seconds, 2)}


def _append(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(document) + "\n")


def _here() -> dict[str, Any]:
    found = environment()
    found["packages"]["jstc"] = jstc.__version__
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found["packages"][name] = metadata.version(name)
    return {"environment": found, "command": shlex.join(["python", "-m", "benchmarks.beyond", *sys.argv[1:]])}


def _warm() -> None:
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    torch.set_num_threads(1)
    for name in _SLOW:
        importlib.import_module(name)


def _open(known: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    """The checks that are still to be made of a network."""
    done = () if options.fresh else known.get("checked", ())
    return [stage for stage in options.only if stage not in done]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="networks or families; all without any")
    parser.add_argument("--list", action="store_true", help="print the names of all networks")
    parser.add_argument("--results", type=Path, default=Path("runs/beyond.jsonl"))
    parser.add_argument("--fresh", action="store_true", help="check again what is known")
    only = f"these checks alone, of {', '.join(STAGES)}"
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, metavar="CHECK", help=only)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one network")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB for one network")
    parser.add_argument("--table", type=Path, help="write the results to this Markdown file")
    options = parser.parse_args()
    known = {*FAMILIES, *(name for _, name, _ in _names())}
    if unknown := set(options.names) - known:
        parser.error(f"no network or family {', '.join(sorted(unknown))}: see --list")
    return options


def main() -> int:
    """Exit code: 1 if a network fails a check."""
    options = _options()
    if options.list:
        print("\n".join(f"{family}: {name}" for family, name, _ in _names()))
        return 0
    chosen = [n for n in _names() if not options.names or {n[0], n[1]} & set(options.names)]
    here, known = _known(options.results)
    stages = {n[1]: _open(known.get(n[1], {}), options) for n in chosen}
    todo = [n for n in chosen if stages[n[1]]]
    if todo:
        _warm()
        _append(options.results, _here())
    for number, (family, name, make) in enumerate(todo, 1):
        if missing := _missing(family):
            found: dict[str, Any] = {"name": name, "failures": {}, "skipped": missing}
        else:
            found = checked(name, make, limit=options.limit, memory=options.memory, only=stages[name])
        _append(options.results, found)
        print(f"[{number}/{len(todo)}] {name}: {table.verdict(found)}", file=sys.stderr, flush=True)
    here, known = _known(options.results)
    if options.table is not None:
        order = {family: list(networks) for family, (_, networks) in FAMILIES.items()}
        files.write_text(options.table, table.document(here, known, order))
    failed = [name for _, name, _ in chosen if known.get(name, {}).get("failures")]
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
