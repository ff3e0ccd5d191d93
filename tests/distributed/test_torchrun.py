"""A whole run as a user starts it, and one that loses a process. Minutes on a busy machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
QUICK = (
    "search.rounds=3", "search.coarse_share=0.4", "search.steps_per_round=12", "train.batch_size=16",
    "search.recalibration_images=32", "search.thresholds=threshnet",
    "search.candidates=2", "search.candidate_images=32",
    "search.eval_images=64", "finetune.epochs=1", "finetune.steps_per_epoch=4",
    "checkpoint.every_steps=10",
)  # fmt: skip


@pytest.fixture
def start(tmp_path):
    """Start torchrun with two processes; returns it."""
    started = []

    def start(*command, options=()):
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        found = subprocess.Popen(
            [*program, *options, "-m", "jstc", *command],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip
        started.append(found)
        return found

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # killed, it would leave its processes behind
            process.communicate(timeout=120)


@pytest.fixture
def search(network, start):
    def search(*options, torchrun=()):
        settings = [word for key in QUICK for word in ("--set", key)]
        words = ["search", network, "--dataset", "digits", "--flops", "0.5", "--device", "cpu"]
        return start(*words, *settings, "--out", "run", "-v", *options, options=torchrun)

    return search


@pytest.fixture
def network(tmp_path):
    """A small network of the user's own."""
    path = tmp_path / "small.py"
    path.write_text(
        "from torch import nn\n\n\n"
        "def block(a, b, stride=1):\n"
        "    norm = nn.BatchNorm2d(b)\n"
        "    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), norm, nn.ReLU())\n\n\n"
        "def make(num_classes):\n"
        "    body = [block(3, 16), block(16, 16, 2), block(16, 32, 2)]\n"
        "    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes))\n"
    )
    return "small.py:make"


def finished(process, *, code=0):
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, err
    return out, err


def history(folder):
    lines = (folder / "run" / "search" / "history.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def processes(torchrun):
    """Process ids by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (folder / "environ").read_text().split("\0")
        except OSError:
            continue
        rank = [word.removeprefix("RANK=") for word in words if word.startswith("RANK=")]
        if parent == torchrun.pid and rank:
            found[int(rank[0])] = int(folder.name)
    return found


def wait_for_a_round(folder, process):
    path = folder / "run" / "search" / "history.jsonl"
    while not (path.exists() and path.read_text().count("\n")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_search_finetune_export_and_eval(search, start, tmp_path):
    out, err = finished(search("--json"))
    assert len(json.loads(out)) and err.count("round 3/3") == 1
    finished(start("export", "run"))
    accuracy = json.loads((tmp_path / "run" / "export" / "result.json").read_text())["files"][0]["accuracy"]
    out, _ = finished(start("eval", "run", "--provider", "cpu", "--json"))
    found = json.loads(out)
    assert (found["images"], found["accuracy"]) == (found["images_in_split"], accuracy)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on(search, tmp_path, rank):
    finished(search())
    whole = history(tmp_path)
    shutil.rmtree(tmp_path / "run")  # or its history would be taken for that of the next
    broken = search()
    wait_for_a_round(tmp_path, broken)
    found = processes(broken)
    os.kill(found[rank], signal.SIGKILL)
    began = time.monotonic()
    finished(broken, code=1)
    assert time.monotonic() - began < 30
    assert not any(Path(f"/proc/{number}").exists() for number in found.values())
    finished(search())
    assert history(tmp_path) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_saves_once(search, tmp_path, number):
    """torchrun passes it on to processes that have got it already."""
    broken = search("--set", "search.steps_per_round=400", "--set", "checkpoint.every_steps=null")
    wait_for_a_round(tmp_path, broken)
    time.sleep(0.5)  # what the round has left is saved, and the next one lasts for seconds
    found, sent = processes(broken), time.time()
    os.killpg(broken.pid, number)
    _, err = finished(broken, code=1)
    assert err.count("interrupted during search; what was finished is saved") == 1
    assert err.count("error: ") == 1
    assert (tmp_path / "run" / "search" / "checkpoint.safetensors").stat().st_mtime > sent
    assert not any(Path(f"/proc/{pid}").exists() for pid in found.values())


def test_started_anew_a_run_goes_on(search, tmp_path):
    process = search(torchrun=["--max-restarts=1"])
    wait_for_a_round(tmp_path, process)
    os.kill(processes(process)[1], signal.SIGKILL)
    _, err = finished(process)
    assert len(history(tmp_path)) == 3
    assert err.count("round 3/3") == 1


def test_wrong_input_is_told_once(search):
    _, err = finished(search("--set", "train.batch_size=7"), code=1)
    assert err.count("train.batch_size: 7 images are not shared evenly by 2 processes") == 1
    assert "exitcode  : 2" in err
