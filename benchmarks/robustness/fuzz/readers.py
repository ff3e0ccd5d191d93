"""The functions that read the files, called with damaged ones in this process: thousands in minutes."""

from __future__ import annotations

import contextlib
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.robustness.fuzz import mutations
from jstc.errors import JstcError

__all__ = ["READERS", "Read", "Reader", "read_case", "warm_up"]

_SECONDS = 60
_REPORTED = 3  # frames


@dataclass(frozen=True)
class Reader:
    """Files by patterns, the damage, and who reads the folder with the file."""

    files: tuple[str, ...]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path, Path], object]


@dataclass(frozen=True)
class Read:
    """What one case came to: `code` as the command line would have it; `finding` None when all is well."""

    reader: str
    file: str
    code: int
    seconds: float
    finding: str | None = None


class _Hangs(BaseException):
    pass


def read_case(base: Path, number: int, seed: int, wanted: list[str]) -> Read:
    """Damage one file of `base`, read it, and put it back."""
    rng = random.Random(f"readers/{seed}/{number}")
    name = wanted[number % len(wanted)]
    reader = READERS[name]
    file = rng.choice(sorted(path for pattern in reader.files for path in base.glob(pattern)))
    whole = file.read_bytes()
    broken = reader.mutate(whole, rng)
    began = time.monotonic()
    try:
        file.write_bytes(broken)
        code, finding = _outcome(lambda: reader.read(base, file))
        if file.read_bytes() != broken:
            finding = finding or "the damaged file was changed"
    finally:
        file.write_bytes(whole)
    return Read(name, str(file.relative_to(base)), code, time.monotonic() - began, finding)


def warm_up(base: Path, wanted: list[str]) -> None:
    """Read every whole file once: what is loaded by the first call is no part of a case's time."""
    for name in wanted:
        for pattern in READERS[name].files:
            READERS[name].read(base, min(base.glob(pattern)))


def _outcome(work: Callable[[], object]) -> tuple[int, str | None]:
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("error")
            work()
    except JstcError as error:
        return error.exit_code, None if str(error) else "an empty message"
    except _Hangs:
        return -1, f"no end after {_SECONDS} seconds"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[-_REPORTED:]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
        return 1, f"{type(error).__name__}: {str(error)[:160]} ({where})"
    return 0, None


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Hangs

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _recipe(_: Path, file: Path) -> None:
    from jstc.recipe import loading

    loading.to_yaml(loading.load(file))


def _plan(_: Path, file: Path) -> None:
    from jstc import Plan

    plan = Plan.load(file)
    assert plan.hash and plan.counts is not None


def _manifest(base: Path, _: Path) -> None:
    from jstc.runs.directory import newest_run, recorded

    recorded(base / "run")
    newest_run(base, say=lambda _: None)


def _spec(base: Path, _: Path) -> None:
    from jstc import slim
    from jstc.channels import slim_network

    folder = base / "run" / "slim"
    slim._spec(slim_network.read(folder), folder)


def _slim(base: Path, _: Path) -> None:
    from jstc import slim

    slim.load(base / "run" / "slim", allow_code="net.py:Small")


def _summary(base: Path, file: Path) -> None:
    from jstc import gate

    whole, broken = gate.load_side(base / "base" / "summary.json"), gate.load_side(file)
    gate.compare(whole, broken, settings=gate.Settings())
    gate.compare(broken, whole, settings=gate.Settings())


def _report(base: Path, _: Path) -> None:
    from jstc import report
    from jstc.runs.manifest import damage_as_input_error

    with damage_as_input_error(base / "run"):
        report.markdown(report.read(base / "run"))


def _page(base: Path, _: Path) -> None:
    from jstc import report
    from jstc.runs.manifest import damage_as_input_error

    with damage_as_input_error(base / "run"):
        report.html(report.read(base / "run"))


def _run_recipe(base: Path, file: Path) -> None:
    from jstc.runs.directory import read_recipe

    read_recipe(file.parent)
    _report(base, file)


def _checkpoint(_: Path, file: Path) -> None:
    from jstc.train import checkpoint

    checkpoint.load(file)


def _weights(base: Path, file: Path) -> None:
    from jstc import models

    spec = models.spec(f"{base / 'net.py'}:Small", num_classes=10, in_channels=3, height=8, width=8)
    models.load_weights(models.build(spec), file)


def _image(_: Path, file: Path) -> None:
    from jstc.data import images

    images.open_file(file)


def _parquet(base: Path, _: Path) -> None:
    import torch

    from jstc import data
    from jstc.recipe.schema import InputSettings

    settings = InputSettings(image_size=8, workers=0)
    device = torch.device("cpu")
    found = data.load("parquet", root=base / "parquet", settings=settings, seed=0, device=device)
    next(iter(found.test.ordered(64)))


_RESULTS = ("run/*/result.json", "run/target.json", "run/bench/*.json", "run/report/pictures.json",
            "run/*/plan.json", "run/manifest.json")  # fmt: skip
_TENSORS = ("run/slim/model.safetensors",)

READERS: dict[str, Reader] = {
    "recipe": Reader(("own.yaml",), mutations.broken_yaml, _recipe),
    "recipe of a run": Reader(("run/recipe.yaml",), mutations.broken_yaml, _run_recipe),
    "plan": Reader(("run/*/plan.json",), mutations.broken_json, _plan),
    "manifest": Reader(("run/manifest.json",), mutations.broken_json, _manifest),
    "model spec": Reader(("run/slim/model.json",), mutations.broken_json, _spec),
    "slim network": Reader(("run/slim/model.json", *_TENSORS * 2), mutations.broken_any, _slim),
    "summary": Reader(("run/summary.json",), mutations.broken_json, _summary),
    "report": Reader(_RESULTS, mutations.broken_json, _report),
    "page": Reader(_RESULTS, mutations.broken_json, _page),
    "histories": Reader(
        ("run/search/history.jsonl", "run/finetune/history.jsonl"), mutations.broken_lines, _page
    ),
    "checkpoint": Reader(("run/*/checkpoint.safetensors",), mutations.broken_safetensors, _checkpoint),
    "weights": Reader(("weights.safetensors",), mutations.broken_safetensors, _weights),
    "weights of torch": Reader(("weights.pt",), mutations.broken_bytes, _weights),
    "image": Reader(("tree/*/class[01]/*",), mutations.broken_bytes, _image),
    "parquet": Reader(("parquet/*.parquet",), mutations.broken_bytes, _parquet),
}
