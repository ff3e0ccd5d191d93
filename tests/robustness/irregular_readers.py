"""Puts pipes and devices in the place of files, in the folder given, and lets every reader meet them.

A process of its own, because a reader that waits for a pipe can only be killed.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from jstc import data, gate, report, slim
from jstc.channels import rebuild
from jstc.core import files
from jstc.data.images import CorruptImages, open_file
from jstc.errors import JstcError
from jstc.export.card import read_metadata
from jstc.finetune import _load_target
from jstc.models import load_weights
from jstc.ort import bench, sessions
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.recipe.schema import BenchSettings, InputSettings
from jstc.runs import directory, evaluation
from jstc.runs.compared_runs import compare_runs
from jstc.runs.kept import Kept
from jstc.runs.manifest import Manifest
from jstc.runs.search_result import Report
from jstc.runs.workspace import Workspace
from jstc.summary import SCHEMA
from jstc.train import checkpoint, handover
from jstc.train.metrics import History

RECIPE = "model: resnet20\ndataset: digits\nflops: 0.5\n"
SPEC = {"name": "resnet20", "num_classes": 10, "in_channels": 3, "height": 8, "width": 8, "cifar": True}
SETTINGS = InputSettings(workers=0, max_corrupt=0)


def case(name: str, read: Callable[[Path], object]) -> tuple[str, Callable[[Path], object]]:
    """`name` is the file that a pipe stands for, `read` is given the folder in which it lies."""
    return name, read


def of_data(kind: str) -> Callable[[Path], object]:
    return lambda folder: data.check(kind, root=folder, settings=SETTINGS)


def of_run(folder: Path) -> object:
    return report.read(folder)


def weights(name: str) -> Callable[[Path], object]:
    return lambda folder: load_weights(torch.nn.Linear(2, 2), folder / name)


def compared(folder: Path) -> object:
    (folder / "recipe.yaml").unlink()  # what the stages left would be read instead
    return compare_runs(folder, folder, settings=gate.Settings())


def saved(folder: Path) -> object:
    network = torch.nn.Linear(2, 2)
    if not (folder / "model.json").exists():
        files.write_json(folder / "model.json", {"schema": 1, "class": "Linear", "plan_hash": ""})
    return rebuild(network, folder)


def with_parquet(folder: Path) -> object:
    (folder / "train.parquet").write_bytes(b"x")
    return of_data("parquet")(folder)


def workspace(folder: Path) -> object:
    recipe = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5"})
    return Workspace(recipe.model_copy(update={"weights": folder / "w.pt"})).check_names()


CASES = [
    case("r.yaml", lambda f: loading.load(f / "r.yaml")),
    case("r.yaml", lambda f: loading.read_plain(f / "r.yaml")),
    case("recipe.yaml", directory.read_recipe),
    case("manifest.json", Manifest.load),
    case("manifest.json", directory.read_recipe),
    case("plan.json", lambda f: Plan.load(f / "plan.json")),
    case("model.json", slim.load),
    case("model.safetensors", slim.load),
    *(case(name, saved) for name in ("model.json", "model.safetensors", "plan.json")),
    case("checkpoint.safetensors", lambda f: checkpoint.load(f / "checkpoint.safetensors")),
    case("subnetwork.safetensors", lambda f: handover.load_subnetwork(
        f / "subnetwork.safetensors", plan=Plan.full({"a": 2}))),
    case("target.safetensors", lambda f: _load_target(torch.nn.Linear(2, 2), f / "target.safetensors")),
    case("history.jsonl", lambda f: History(f / "history.jsonl").read()),
    case("corrupt.jsonl", lambda f: CorruptImages().keep_in(f / "corrupt.jsonl")),
    case("w.pt", weights("w.pt")),
    case("w.safetensors", weights("w.safetensors")),
    case("w.pt", workspace),
    case("summary.json", lambda f: gate.load_side(f / "summary.json")),
    case("summary.json", compared),
    case("m.onnx", lambda f: sessions.open_session(f / "m.onnx")),
    case("m.onnx", lambda f: read_metadata(f / "m.onnx")),
    case("m.onnx", lambda f: bench.measure({"m": f / "m.onnx"}, settings=BenchSettings())),
    case("m.onnx", lambda f: evaluation.evaluate(f / "m.onnx", dataset="digits")),
    case("0001.png", lambda f: open_file(f / "0001.png")),
    case("train/cat/0001.png", of_data("imagefolder")),
    case("train.parquet", of_data("parquet")),
    case("train-00000-of-00001.parquet", of_data("parquet")),
    case("classes.txt", with_parquet),
    case("train/0.tar", of_data("webdataset")),
    case("classes.txt", of_data("webdataset")),
    case("dataset.json", of_data("webdataset")),
    case("cifar-10-batches-bin/data_batch_1.bin", of_data("cifar10")),
    case("cifar-10-batches-py/data_batch_1", lambda f: data.load(
        "cifar10", root=f, settings=SETTINGS, seed=0, device=torch.device("cpu"))),
    *(case(name, of_run) for name in (
        "recipe.yaml", "manifest.json", "target.json", "search/result.json", "search/plan.json",
        "slim/plan.json", "bench/bench.json", "bench/environment.json", "bench/profile.json",
        "export/result.json", "report/pictures.json")),
    case("kept.json", lambda f: Kept(f).facts),
    case("kept.safetensors", lambda f: Kept(f).tensors),
    case("target.onnx", lambda f: Kept(f).copy_target(f / "copy.onnx")),
    case("report.html", lambda f: Report(f / "report.html")._repr_html_()),
    case("x", lambda f: files.sha256(f / "x")),
]  # fmt: skip


def prepare(folder: Path) -> None:
    """What lies beside the file that a pipe stands for."""
    for name in (
        "train/cat/a.png",
        "train/dog/a.png",
        "val/cat/a.png",
        "val/dog/a.png",
        "train/0.tar",
        "val/0.tar",
        "test.parquet",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "recipe.yaml").write_text(RECIPE)
    Manifest.new("jstc run", 0, ["search"]).save(folder)
    files.write_json(folder / "model.json", {"schema": 1, "model": SPEC, "plan_hash": "", "attributes": {}})
    files.write_json(folder / "summary.json", {"schema": SCHEMA})


def put(path: Path, kind: str) -> None:
    """A pipe, or a link to a device, in the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


def main(place: Path, kind: str) -> None:
    """Print a line for every case: its number, its file, and what came of it."""
    for number, (name, read) in enumerate(CASES):
        folder = place / str(number)
        prepare(folder)
        put(folder / name, kind)
        print(f"{number} {name}: ", end="", flush=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = read(folder)
        except JstcError as error:
            print(f"refused: {error}".replace("\n", " "), flush=True)
        else:
            print(f"read: {found!r}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
