"""One job of the accuracy benchmark in a process of its own.

    python -m benchmarks.accuracy.run JOB.json RESULT.json --out DIR [--data DIR]

The result is written whole or not at all; what the job throws goes to the standard error.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

import jstc
from benchmarks import children
from benchmarks.accuracy import cut as accuracy_cut
from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy import fixed as accuracy_fixed
from benchmarks.accuracy import jst as accuracy_jst
from benchmarks.accuracy.settings import METHODS, Job
from benchmarks.accuracy.work import Outcome, Work
from jstc.core import files
from jstc.data import Dataset
from jstc.ort.machine import environment
from jstc.train import device

__all__ = ["KINDS", "run"]


def _tp(work: Work) -> Outcome:
    from benchmarks.accuracy import torch_pruning as accuracy_tp

    return accuracy_tp.pruned(work)


def _fastnas(work: Work) -> Outcome:
    from benchmarks.accuracy import fastnas as accuracy_fastnas

    return accuracy_fastnas.searched(work)


KINDS: Mapping[str, Callable[[Work], Outcome]] = {
    "jst": accuracy_jst.jst,
    "given": accuracy_jst.given,
    "retrain": accuracy_jst.retrain,
    "cut": accuracy_cut.cut,
    "uniform": accuracy_fixed.uniform,
    "random": accuracy_fixed.random,
    "target": accuracy_fixed.target,
    "tp": _tp,
    "fastnas": _fastnas,
}
_KEPT_OUT = ("checkpoint.safetensors", "target.safetensors", "model.safetensors")


def run(job: Job, *, root: Path | None, out: Path) -> dict[str, Any]:
    """Do the job from its start; returns the result as a JSON document.

    Raises whatever the method raises; what another attempt left is thrown away, so that seconds are true.
    """
    where = device.device(job.recipe.device)
    device.set_threads(1)
    directory = out / "work" / job.case / job.name
    shutil.rmtree(directory, ignore_errors=True)
    dataset = accuracy_data.load(job, root=root, out=out, where=where)
    work = Work.of(job, dataset, where=where, directory=directory, cache=out / "cache")
    started, machine = time.time(), _machine(where)  # the code as it was loaded: it may change meanwhile
    outcome = KINDS[METHODS[job.method].kind](work)
    document = {
        "case": job.case,
        "method": job.method,
        "seed": job.seed,
        **_figures(outcome, work),
        "spent": {**work.ledger.to_dict(), "judging": work.judging(_judged_at(job, work))},
        "seconds": work.clock.to_dict(),
        "settings": {"hash": job.hash, **job.identity, "overrides": list(job.overrides)},
        "data": _described(dataset),
        "extra": outcome.extra,
        "machine": machine,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
    }
    _tidy(directory)
    return document


def _figures(outcome: Outcome, work: Work) -> dict[str, Any]:
    whole = work.channels.cost()
    return {
        "accuracy": outcome.accuracy,
        "search_val_accuracy": outcome.search_val_accuracy,
        "flops": outcome.flops,
        "flops_share": outcome.flops / whole.flops,
        "budget": work.limit,
        "target_flops": whole.flops,
        "params": outcome.params,
        "target_params": whole.params,
        "widths": {n: m.out_channels for n, m in outcome.network.named_modules() if isinstance(m, nn.Conv2d)},
    }


def _judged_at(job: Job, work: Work) -> int:
    """FLOPs of the networks that are judged, at most: FastNAS cuts the target network one layer at a time."""
    return work.channels.cost().flops if METHODS[job.method].kind == "fastnas" else work.limit


def _described(dataset: Dataset) -> dict[str, Any]:
    names = ("train", "search_val", "train_full", "test")
    return {"name": dataset.info.name, **{name: getattr(dataset, name).num_images for name in names}}


def _machine(where: torch.device) -> dict[str, Any]:
    found = environment()
    for name in ("torch-pruning", "nvidia-modelopt"):
        try:
            found["packages"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["packages"]["jstc"] = jstc.__version__
    gpu = torch.cuda.get_device_name(where) if where.type == "cuda" else None
    keys = ("cpu", "cores", "memory_gb", "os", "python", "packages")
    fixed = {"device": where.type, "gpu": gpu, "threads": torch.get_num_threads(), "commit": _commit()}
    return {**{key: found[key] for key in keys}, **fixed}


def _commit() -> str | None:
    """The commit of the checkout, with a plus where files of the package differ from it."""
    here = children.ROOT
    said = []
    for command in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", "jstc")):
        try:
            done = subprocess.run(
                ["git", *command], cwd=here, capture_output=True, text=True, check=True, timeout=20
            )
        except (OSError, subprocess.SubprocessError):
            return None
        said.append(done.stdout.strip())
    return said[0] + ("+" if said[1] else "")


def _tidy(directory: Path) -> None:
    """Remove what is large and serves only to go on; histories, plans and trained sub-networks stay."""
    for name in _KEPT_OUT:
        for path in directory.rglob(name):
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    job = Job.from_dict(files.read_json(options.job))
    files.write_json(options.result, run(job, root=options.data, out=options.out))


if __name__ == "__main__":
    main()
