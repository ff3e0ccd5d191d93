"""What a run is going to do: at the head of its output, and with --dry-run instead of doing it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Called
from tests.cli.test_search_then_export import NETWORK, SETTINGS

Command = Callable[..., Called]
SETS = [word for setting in SETTINGS for word in ("--set", setting)]
SEARCH = ["search", "small.py:Small", "--dataset", "digits", *SETS]


@pytest.fixture(autouse=True)
def small(jstc_command: Command, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(NETWORK)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(jstc_command: Command, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    called = jstc_command(*SEARCH, "--flops", "0.5", "--dry-run")
    assert called.code == 0, called.err
    told = " ".join(called.out.split())
    assert "small.py:Small" in told
    assert "from scratch" in told
    assert "search 2 rounds of 2 steps" in told
    assert "finetune" not in told
    assert "digits, 1,198 training and 599 test images of 3x8x8, 10 classes" in told
    assert "images the network gets 8x8 pixels (input.image_size)" in told
    assert sorted(tmp_path.iterdir()) == before


def test_several_budgets_as_a_document(jstc_command: Command) -> None:
    called = jstc_command(*SEARCH, "--flops", "0.8,0.5", "--dry-run", "--json")
    document = json.loads(called.out)
    assert document["budget"].count("FLOPs at most") == 2
    assert document["directory"].startswith("runs/")


def test_each_bound_is_said(jstc_command: Command) -> None:
    words = ("search", "resnet20", "--dataset", "digits", "--flops", "0.5", "--json", "--dry-run")
    both, slack = (
        json.loads(jstc_command(*words, "--params", most).out)["budget"] for most in ("0.4", "10M")
    )
    assert both.endswith("50.0 % of the network's, and 108 k parameters at most, 40.0 % of the network's")
    assert slack.endswith(", and 10.0 M parameters at most, which the network meets as it is")


def test_a_dry_run_reads_the_weights_and_says_how(jstc_command: Command, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(NETWORK, scope)
    state = {f"model.{key}": value for key, value in scope["Small"](10).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    called = jstc_command(*SEARCH, "--flops", "0.5", "--weights", "last.ckpt", "--dry-run", "--json")
    told = json.loads(called.out)["weights"]
    assert told == "last.ckpt: those of the network are under 'state_dict.model'"


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ("#state_dict_ema", "error: weights last.ckpt have no part 'state_dict_ema'"),
        ("/", "error: weights .: the folder has neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_a_part_or_a_folder_without_weights_is_told_before_anything(
    jstc_command: Command, tmp_path: Path, beside: str, message: str
) -> None:
    torch.save({"state_dict": {"fc.bias": torch.zeros(1)}}, tmp_path / "last.ckpt")
    weights = "." if beside == "/" else f"last.ckpt{beside}"
    called = jstc_command(*SEARCH, "--flops", "0.5", "--weights", weights)
    assert (called.code, called.out) == (2, "")
    assert message in called.err


def test_a_dry_run_finds_what_is_wrong(jstc_command: Command) -> None:
    called = jstc_command(*SEARCH, "--flops", "0.001", "--dry-run")
    assert called.code == 2
    assert "smallest" in called.err


def test_a_run_begins_with_it_once(jstc_command: Command) -> None:
    first = jstc_command(*SEARCH, "--flops", "0.5")
    again = jstc_command(*SEARCH, "--flops", "0.5")
    assert (first.code, again.code) == (0, 0), first.err
    told = first.err.splitlines()
    assert [line.split()[0] for line in told[:4]] == ["network", "data", "images", "budget"]
    assert first.err.count("directory") == 1
    assert "network " not in again.err
    other = jstc_command(
        *SEARCH, "--flops", "0.6", "--out", "runs/" + next(Path("runs").iterdir()).name, "--dry-run"
    )
    assert other.code == 2  # the directory is another run's
