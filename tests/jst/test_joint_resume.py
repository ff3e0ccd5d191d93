"""A search broken off anywhere and called again ends as one that ran through."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jstc.data import Dataset
from jstc.errors import RunDirectoryError
from jstc.plan import Plan
from jstc.train.checkpoint import Checkpoints
from tests.helpers.children import environment

CHECKPOINT = "checkpoint.safetensors"


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 6])
def test_broken_off_after_a_round(
    run_search: Any, power_cut: Any, searched: Any, tmp_path: Path, after: int
) -> None:
    with power_cut(after) as progress:
        run_search(tmp_path, progress=progress)
    assert not (tmp_path / "plan.json").exists()
    torch.manual_seed(after)
    assert run_search(tmp_path).files == searched().files


def test_broken_off_after_every_round(run_search: Any, power_cut: Any, searched: Any, tmp_path: Path) -> None:
    for after in range(1, 7):
        with power_cut(after) as progress:
            run_search(tmp_path, progress=progress)
    assert run_search(tmp_path).files == searched().files


@pytest.mark.parametrize("call", [0, 3])
def test_broken_off_between_history_and_checkpoint(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The history has then one line more than the checkpoint knows of."""
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", fail_at(call, Checkpoints.save))
        with pytest.raises(PowerCutError):
            run_search(tmp_path)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == call + 1
    assert run_search(tmp_path).files == searched().files


def fail_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but its call number `call` (from 0) fails instead."""
    calls = iter(range(1000))

    def wrapped(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise PowerCutError
        return function(*args, **options)

    return wrapped


def test_broken_off_while_the_result_is_written(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jstc.train.handover.save_subnetwork", fail_at(0, print))
        with pytest.raises(PowerCutError):
            run_search(tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert run_search(tmp_path).files == searched().files


KILLED = """
import json, multiprocessing, pathlib, sys, time
import torch
from tests.helpers.tiny_search import tiny_search
torch.set_num_threads(1)
process = multiprocessing.get_context("fork").Process  # torch is loaded only once
def start(folder):
    search = process(target=tiny_search, args=(pathlib.Path(folder),))
    search.start()
    return search
began = time.monotonic()
start(sys.argv[2]).join()
seconds = time.monotonic() - began
for share in json.loads(sys.argv[3]):
    search = start(sys.argv[1])
    time.sleep(share * seconds)
    search.kill()
    search.join()
    print(search.exitcode)
"""


def test_killed_at_random_moments(run_search: Any, searched: Any, tmp_path: Path) -> None:
    shares = [random.uniform(0.2, 0.9) for _ in range(4)]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED, str(killed), str(whole), json.dumps(shares)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    assert len(done.stdout.split()) == 4
    assert "-9" in done.stdout.split()
    assert run_search(killed).files == searched().files, f"killed after {shares} of a search"


def test_a_finished_search_is_not_trained_again(
    run_search: Any, searched: Any, dataset: Dataset, watched: Any, tmp_path: Path
) -> None:
    directory = shutil.copytree(searched().directory, tmp_path / "search")
    asked: list[str] = []
    again = run_search(directory, dataset=watched(dataset, train=asked.append, search_val=asked.append))
    assert again.files == searched().files
    assert "shuffled" not in asked


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"model": "other.py:net"}, "model"),
        ({"weights": "given.safetensors"}, "weights"),
        ({"flops": 0.6}, "flops"),
        ({"flops": None, "params": 0.5}, "flops, params"),
        ({"train.lr": 0.05}, "train"),
        ({"train.momentum": 0.0}, "train"),
        ({"search.rounds": 9}, "search"),
        ({"search.threshnet_lr": 0.2}, "search"),
        ({"finetune.epochs": 5}, "finetune_epochs"),
        ({"channels.min_share": 0.2}, "channels"),
        ({"input.augment": False}, "input"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_recipe_is_refused(
    run_search: Any, searched: Any, tmp_path: Path, change: dict[str, Any], key: str
) -> None:
    shutil.copy(searched().directory / CHECKPOINT, tmp_path)
    with pytest.raises(RunDirectoryError, match=rf"belongs to another search \({key} differ\); .*--fresh"):
        run_search(tmp_path, change)


def test_a_checkpoint_of_an_earlier_kind_of_search_is_refused(
    run_search: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(searched().directory / CHECKPOINT, tmp_path)
    monkeypatch.setattr("jstc.jst.state._VERSION", 0)
    with pytest.raises(RunDirectoryError, match=r"belongs to another search \(version differ\); .*--fresh"):
        run_search(tmp_path)


def test_a_checkpoint_of_another_network_is_refused_before_it_is_taken_over(
    run_search: Any, searched: Any, network: Any, tmp_path: Path
) -> None:
    network.last, network.last_bn = torch.nn.Conv2d(8, 24, 3), torch.nn.BatchNorm2d(24)
    network.fc = torch.nn.Linear(24, 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shutil.copy(searched().directory / CHECKPOINT, tmp_path)
    with pytest.raises(RunDirectoryError, match=r"another search \(widths differ\)"):
        run_search(tmp_path, network=network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def flip_a_bit(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


@pytest.mark.parametrize("damage", [flip_a_bit, lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_checkpoint_is_refused(
    run_search: Any, searched: Any, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / CHECKPOINT).write_bytes(damage((searched().directory / CHECKPOINT).read_bytes()))
    with pytest.raises(RunDirectoryError, match=f"{CHECKPOINT} .*--fresh"):
        run_search(tmp_path)


def test_another_file_in_place_of_the_checkpoint_is_refused(
    run_search: Any, searched: Any, tmp_path: Path
) -> None:
    shutil.copy(searched().directory / "subnetwork.safetensors", tmp_path / CHECKPOINT)
    with pytest.raises(RunDirectoryError, match="belongs to another search"):
        run_search(tmp_path)


def test_a_history_without_a_checkpoint_starts_over(run_search: Any, searched: Any, tmp_path: Path) -> None:
    shutil.copy(searched().directory / "history.jsonl", tmp_path)
    Plan.full({"old": 3}).save(tmp_path / "plan.json")
    assert run_search(tmp_path).files == searched().files
