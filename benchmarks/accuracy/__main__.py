"""Accuracy at equal total training: joint search-and-training, its ablations, and its rivals.

    python -m benchmarks.accuracy --case resnet20-50 --data DIR --out runs/accuracy --seeds 0,1,2 --jobs 2
    python -m benchmarks.accuracy --data DIR --methods jst,uniform --epochs 40 --set search.rounds=20
    python -m benchmarks.accuracy --data DIR --methods ablations --table ablations.md
    python -m benchmarks.accuracy --case vgg16_bn-quarter-15 --data DIR --images all --methods given
    python -m benchmarks.accuracy --list

One experiment fixes network, data, FLOPs budget, total training and seeds. Total training is counted in
images x FLOPs of the network that saw them (a forward pass alone is a third of a training step), and written
in epochs' worth: one is an epoch of the target network over the training images used. No method spends more
than --epochs; what each spent is counted and recorded. Images, augmentation, optimiser and the form of the
learning-rate schedule are the same for all. Choices are made on the search-validation split only; the test
split is read once, at the end of each job.

The methods of the sets `given` and `given-ablations` begin at trained weights instead (--weights, or
--given-epochs of training), which nobody pays for, cut them without training, and are tested after each
length of --finetune.

Every case, method and seed is a process of its own with one CPU thread, and one JSON file in OUT/results. A
result that is there is kept if all settings that it depends on are the same (their hash is in its name);
--fresh does it anew. Results of another version of the code are kept as well, and the table says so. Exit
code 1 if a job failed; what it said is in OUT/failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks import children
from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy import table as accuracy_table
from benchmarks.accuracy.settings import CASES, METHODS, Job, Settings
from jstc.core import files
from jstc.errors import InputError

__all__ = ["jobs_of", "main", "results_of"]

_RUN = "benchmarks.accuracy.run"
_LAST_LINES = 15
_CUT = [name for name, method in METHODS.items() if method.kind == "cut"]
_GIVEN = [name for name in _CUT if not METHODS[name].ablation]
_MAIN = [name for name, method in METHODS.items() if not method.ablation and name not in _CUT]
_ABLATIONS = [name for name, method in METHODS.items() if method.ablation and name not in _CUT]
_SETS = {
    "main": _MAIN,
    "ablations": ["jst", *_ABLATIONS],
    "given": _GIVEN,
    "given-ablations": ["cut-jst", *(name for name in _CUT if name not in _GIVEN)],
    "all": [*_MAIN, *_ABLATIONS],
}


def jobs_of(
    cases: Iterable[str],
    methods: Iterable[str],
    seeds: Iterable[int],
    settings: Settings,
    overrides: tuple[str, ...],
) -> list[Job]:
    """All jobs, those of the first seed first."""
    listed = list(dict.fromkeys(n for method in methods for n in _SETS.get(method, [method])))
    cases = list(cases)
    return [Job(case, n, seed, settings, overrides) for seed in seeds for case in cases for n in listed]


def _path(job: Job, out: Path, folder: str = "results", suffix: str = "json") -> Path:
    return out / folder / job.case / f"{job.name}.{suffix}"


def results_of(jobs: Iterable[Job], out: Path) -> list[dict[str, Any]]:
    """Results of these jobs and of no others."""
    paths = (_path(job, out) for job in jobs)
    return [files.read_json(path) for path in paths if path.is_file()]


def _do(job: Job, out: Path, root: Path | None) -> bool:
    """One job in a process of its own; whether it came to a result."""
    description, result = _path(job, out, "jobs"), _path(job, out)
    files.write_json(description, job.to_dict())
    command = children.command(_RUN, str(description), str(result), "--out", str(out))
    command += ["--data", str(root)] if root else []
    variables = children.environment(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    failed = _path(job, out, "failed", "txt")
    failed.unlink(missing_ok=True)
    if done.returncode == 0:
        print(f"{job.case} {job.name}: {accuracy_table.verdict(files.read_json(result))}", flush=True)
        return True
    said = done.stderr.strip().splitlines()[-_LAST_LINES:]
    files.write_text(failed, "\n".join(said) + "\n")
    print(f"{job.case} {job.name}: FAILED: {said[-1] if said else done.returncode}", flush=True)
    return False


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", type=_names, default=["resnet20-50"], help=f"of {', '.join(CASES)}")
    parser.add_argument(
        "--methods", type=_names, default=["main"], help=f"names, or sets of them: {', '.join(_SETS)}"
    )
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="folder of the data set, as jstc reads it")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    text = "recipe key: of train and input for all methods, others for the variants of jst"
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help=text
    )
    parser.add_argument("--fresh", action="store_true", help="do again what is there")
    parser.add_argument("--table", type=Path, help="write the tables to this Markdown file")
    parser.add_argument("--list", action="store_true", help="list cases and methods")
    group = parser.add_argument_group("settings, the same for all methods")
    for each in fields(Settings):
        flag, default = f"--{each.name.replace('_', '-')}", each.default
        group.add_argument(flag, type=_type(default), default=default, help=f"default {default}")
    return parser.parse_args(arguments)


def _type(default: object) -> Any:
    return _count if default is None or isinstance(default, int) else type(default)


def _count(text: str) -> int | None:
    return None if text in ("all", "none") else int(text)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 1 if a job failed, 2 for a mistake in the options."""
    options = _options(arguments)
    if options.list:
        print(accuracy_table.catalogue())
        return 0
    settings = Settings(**{each.name: getattr(options, each.name) for each in fields(Settings)})
    try:
        jobs = jobs_of(options.case, options.methods, options.seeds, settings, tuple(options.overrides))
        _ = [job.hash for job in jobs]
        for job in {job.case: job for job in jobs}.values():
            accuracy_data.prepare(job, root=options.data, out=options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    missing = [job for job in jobs if options.fresh or not _path(job, options.out).is_file()]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda job: _do(job, options.out, options.data), missing))
    text = accuracy_table.document(results_of(jobs, options.out))
    print(text)
    if options.table is not None:
        files.write_text(options.table, text)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
