"""Damaged files make the functions that read them say so, in one message of ours: the fuzz in short."""

from __future__ import annotations

import json

import pytest

from benchmarks import children
from benchmarks.robustness.fuzz import base as fuzz_base
from benchmarks.robustness.fuzz import readers as fuzz_readers
from jstc.core import files
from tests.helpers.children import environment

CASES = 60  # for each; `python -m benchmarks.robustness.fuzz --readers` for thousands
SEED = 20

RECIPE = """
model: net.py:Small
dataset: digits
flops: [0.7, 50%]
seed: 3
channels: {ignore: [fc], groups: {conv1: {min_width: 4}}}
train: {lr: 1e-1, batch_size: 64}
search: {rounds: 4, perturbation: true, sigma: [1, 0.1], fixed_thresholds: {conv1: 0.5}}
export: {precisions: [fp32, int8]}
"""
SUMMARY = {
    "schema": 1, "model": "m", "dataset": "d", "seed": 0,
    "budget": {"metric": "flops", "limit": 100, "share": 0.5},
    "target": {"flops": 200, "params": 20, "accuracy": 0.9}, "slim": {"flops": 100, "params": 10,
    "accuracy": 0.8},
    "onnx": [{"file": "export/model.onnx", "precision": "fp32", "accuracy": 0.8, "max_abs_diff": 1e-6,
              "top1_agreement": 1.0, "bytes": 1000}],
    "bench": [{"file": "export/model.onnx", "provider": "cpu", "batch": 1, "median_ms": 1.0, "p95_ms": 1.1,
               "speedup_vs_target": 1.5, "ratio_low": 1.4, "ratio_high": 1.6}],
    "seconds": {"search": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The files of a run that nobody has trained, of the kinds that are read one at a time."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "net.py").write_text(fuzz_base.NETWORK)
    (folder / "own.yaml").write_text(RECIPE)
    for run in ("run", "base"):
        files.write_json(folder / run / "summary.json", SUMMARY)
    _emit(folder)
    fuzz_base.trees(folder)
    return folder


def _emit(folder):
    import torch
    from safetensors.torch import save_file

    import jstc
    from jstc import models
    from jstc.runs.manifest import Manifest
    from jstc.train import checkpoint

    spec = models.spec(f"{folder / 'net.py'}:Small", num_classes=10, in_channels=3, height=8, width=8)
    model = models.build(spec)
    channels = jstc.analyse(model, torch.zeros(1, 3, 8, 8))
    plan = channels.uniform_plan(flops=0.6)
    small = channels.slice(model, plan)
    slim = folder / "run" / "slim"
    slim.mkdir()
    plan.save(slim / "plan.json")
    save_file({n: t.contiguous() for n, t in small.state_dict().items()}, slim / "model.safetensors")
    attributes = channels.attributes(plan)
    named = spec.to_dict() | {"name": "net.py:Small"}
    document = {"schema": 1, "model": named, "plan_hash": plan.hash, "attributes": attributes}
    files.write_json(slim / "model.json", document)
    checkpoint.save(
        slim / "checkpoint.safetensors", dict(small.state_dict()), {"round": 1, "plan": plan.to_dict()}
    )
    save_file(dict(model.state_dict()), folder / "weights.safetensors")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "weights.pt")
    manifest = Manifest.new("jstc search x", 0, ["search", "slim"])
    manifest.stages["slim"].artifacts = {"slim/plan.json": files.sha256(slim / "plan.json")}
    manifest.save(folder / "run")


READERS = ["recipe", "plan", "manifest", "model spec", "slim network", "summary", "checkpoint", "weights",
           "weights of torch", "image", "parquet"]  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_a_message(base, name, monkeypatch):
    monkeypatch.chdir(base)
    fuzz_readers.warm_up(base, [name])
    found = [fuzz_readers.read_case(base, number, SEED, [name]) for number in range(CASES)]
    assert not [case for case in found if case.finding]
    assert sum(case.code != 0 for case in found) > CASES / 4  # the damage is met


def test_a_case_is_decided_by_its_number(base):
    cases = [fuzz_readers.read_case(base, 7, SEED, ["plan"]) for _ in range(2)]
    assert cases[0].file == cases[1].file and cases[0].code == cases[1].code


@pytest.mark.parametrize(
    ("code", "text", "finding"),
    [
        (0, "fine\n", None),
        (2, "error: no such file\nhint\n", None),
        (2, "", "0 messages"),
        (1, "error: a\nerror: b\n", "2 messages"),
        (0, "error: a\n", "a message, and exit code 0"),
        (4, "error: a\n", "exit code 4"),
        (1, "error: KeyError: 'a' (--debug shows the traceback)\n", "an error that nobody foresaw"),
        (1, "Traceback (most recent call last):\n", "a traceback"),
        (2, "error: \x1b[2J\n", "the control character '\\x1b'"),
    ],
)
def test_what_the_fuzz_takes_for_a_finding(code, text, finding):
    from benchmarks.robustness.fuzz import __main__ as fuzz

    assert fuzz.judged(code, text) == finding


def test_documents_are_broken_in_many_ways():
    import random

    from benchmarks.robustness.fuzz import mutations as fuzz_mutations

    data = json.dumps(SUMMARY).encode()
    broken = {fuzz_mutations.broken_json(data, random.Random(number)) for number in range(200)}
    assert len(broken) > 180


@pytest.mark.slow
def test_commands_meet_damaged_files(tmp_path):
    import subprocess

    done = subprocess.run(
        children.command("benchmarks.robustness.fuzz", "--cases", "160", "--seed", "3"),
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
