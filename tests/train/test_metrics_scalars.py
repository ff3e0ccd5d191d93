from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from jstc.core.progress import Silent
from jstc.errors import InputError
from jstc.recipe.schema import TrainSettings
from jstc.train import metrics
from jstc.train.fit import fit
from jstc.train.job import Job
from jstc.train.schedule import Schedule

Make = Callable[[], nn.Module]


def train(network: nn.Module, split: Any, run: Path, progress: Silent, *, shown: bool = True) -> None:
    job = Job(
        network=network,
        split=split,
        settings=TrainSettings(batch_size=16),
        schedule=Schedule(base=0.05, total=6),
        steps_per_epoch=2,
        seed=1,
        tensorboard=shown,
    )
    fit(job, directory=run / "finetune", progress=progress, stage="finetune")


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point in the files, whatever a viewer would leave out."""
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((run / "tensorboard").rglob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def test_every_epoch_is_a_point_and_no_point_is_there_twice(
    make_network: Make, split: Any, power_cut: Any, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    train(make_network(), split, tmp_path / "whole", Silent())
    expected = points(tmp_path / "whole")
    assert expected.keys() == {"finetune/lr", "finetune/loss", "finetune/accuracy"}
    assert [step for step, _ in expected["finetune/loss"]] == [0, 1, 2]
    for stop in (1, 2, 2):
        with power_cut(stop) as progress:
            train(make_network(), split, tmp_path / "cut", progress)
    train(make_network(), split, tmp_path / "cut", Silent())
    assert points(tmp_path / "cut") == expected


def test_points_that_were_lost_come_back(
    make_network: Make, split: Any, power_cut: Any, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    with power_cut(2) as progress:
        train(make_network(), split, tmp_path, progress)
    shutil.rmtree(tmp_path / "tensorboard")
    train(make_network(), split, tmp_path, Silent())
    assert [step for step, _ in points(tmp_path)["finetune/loss"]] == [0, 1, 2]


def test_without_the_key_nothing_is_written(make_network: Make, split: Any, tmp_path: Path) -> None:
    train(make_network(), split, tmp_path, Silent(), shown=False)
    assert not (tmp_path / "tensorboard").exists()


def test_only_numbers_are_shown(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    history = metrics.open_history(tmp_path / "search", index="round", tensorboard=True)
    history.truncate(0)
    history.append({"round": 0, "loss": 1.5, "accuracy": None, "flag": True, "counts": [3], "phase": "fine"})
    assert points(tmp_path) == {"search/loss": [(0, 1.5)]}


def test_a_missing_package_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"package is missing; `pip install 'joint-search-training\[tensorboard\]'`"
    ):
        metrics.open_history(tmp_path / "search", index="round", tensorboard=True)
    metrics.open_history(tmp_path / "search", index="round", tensorboard=False)
