"""A real run killed, also in the middle of a write, and resumed: `benchmarks.robustness.faults` in short."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import children
from benchmarks.robustness.faults.compare import differences, fingerprint
from jstc.train import checkpoint
from tests.helpers.children import environment


def faults(*words: str) -> subprocess.CompletedProcess[str]:
    variables = environment(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    command = children.command("benchmarks.robustness.faults", *words)
    return subprocess.run(command, check=False, env=variables, capture_output=True, text=True)


def test_killed_and_resumed_a_run_leaves_the_same_files() -> None:
    done = faults("--kills=1", "--writes=1", "--signals=0", "--until=search", "--seed=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "write at event" in done.stdout
    assert ": 0 not as unbroken" in done.stdout


@pytest.mark.slow
def test_killed_thirty_times_to_the_export() -> None:
    done = faults()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Files such as a run leaves."""
    folder = tmp_path / "run"
    (folder / "search").mkdir(parents=True)
    (folder / "search" / "result.json").write_text(json.dumps({"accuracy": 0.5, "seconds": 3.2}))
    (folder / "search" / "history.jsonl").write_text('{"round": 0, "loss": 1.5, "seconds": 1.0}\n')
    (folder / "MODEL_CARD.md").write_text("accuracy 93.5 %\n\n- run begun 2026-01-02T03:04:05+00:00\n")
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / ".lock").touch()
    save(folder, seconds=1.0)
    return folder


def save(folder: Path, *, seconds: float, value: float = 1.0) -> None:
    tensors = {"x": torch.full((3,), value)}
    checkpoint.save(folder / "search" / "checkpoint.safetensors", tensors, {"round": 1, "seconds": seconds})


def replaced(name: str, old: str, new: str):
    return name, lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        replaced("search/result.json", "0.5", "0.6"),
        replaced("search/history.jsonl", "1.5", "1.6"),
        replaced("MODEL_CARD.md", "93.5", "93.4"),
        replaced("model.onnx", "graph", "grapi"),
        ("search/checkpoint.safetensors", lambda folder: save(folder, seconds=1.0, value=2.0)),
        ("search/left.safetensors", lambda folder: (folder / "search" / "left.safetensors").touch()),
        ("model.onnx", lambda folder: (folder / "model.onnx").unlink()),
    ],
)
def test_what_differs_is_found(run: Path, tmp_path: Path, name, change) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    change(other)
    assert differences(fingerprint(run), fingerprint(other)) == [name]


def test_times_and_dates_are_no_difference(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    for _, change in (
        replaced("search/result.json", "3.2", "4.1"),
        replaced("search/history.jsonl", "1.0", "2.0"),
        replaced("MODEL_CARD.md", "2026-01-02T03:04:05", "2026-01-02T03:05:59"),
    ):
        change(other)
    save(other, seconds=9.0)
    (other / ".lock").unlink()
    assert differences(fingerprint(run), fingerprint(other)) == []
