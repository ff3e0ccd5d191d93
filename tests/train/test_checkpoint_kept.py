"""The newest checkpoint, the ones before it, and what happens when one of them is not to be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from jstc.errors import DiskFullError, RunDirectoryError
from jstc.train import checkpoint
from jstc.train.checkpoint import Checkpoints

NAME = "checkpoint.safetensors"


class Shelf(Checkpoints):
    """Checkpoints of owner 1, whose warnings can be read."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.said: list[str] = []
        super().__init__(folder / NAME, keep=keep, check=ours, warn=self.said.append)

    def put(self, *steps: int) -> None:
        for step in steps:
            self.save({"x": torch.full((3,), float(step))}, {"owner": 1, "step": step})

    def step(self) -> int | None:
        """Of the checkpoint that is loaded."""
        saved = self.load()
        return None if saved is None else int(saved[1]["step"])


def ours(meta: Mapping[str, Any], path: Path) -> None:
    if meta.get("owner") != 1:
        raise RunDirectoryError(f"{path} belongs; to another", "use --fresh; or delete it")


def steps(folder: Path) -> dict[str, int]:
    return {path.name: checkpoint.load(path)[1]["step"] for path in sorted(folder.iterdir())}


def spoil(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_the_newest_and_the_ones_before_it_are_kept(tmp_path: Path) -> None:
    Shelf(tmp_path, keep=3).put(1, 2, 3, 4)
    assert steps(tmp_path) == {"checkpoint.1.safetensors": 3, "checkpoint.2.safetensors": 2, NAME: 4}
    Shelf(tmp_path, keep=1).put(5)
    assert steps(tmp_path) == {NAME: 5}


def test_without_any_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert Shelf(tmp_path).load() is None


def test_only_the_newest_is_left_of_a_training_that_is_over(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, keep=3)
    shelf.put(1, 2, 3)
    (tmp_path / "checkpoint.x.safetensors").touch()
    shelf.drop_older()
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "checkpoint.x.safetensors"]


def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    Shelf(tmp_path).put(1, 2)
    spoil(tmp_path / NAME)
    shelf = Shelf(tmp_path)
    assert shelf.step() == 1
    [warning] = shelf.said
    assert "does not match its own hash" in warning
    assert warning.endswith("; going on from checkpoint.1.safetensors")
    assert "delete" not in warning


def test_a_foreign_one_is_passed_over_too(tmp_path: Path) -> None:
    Shelf(tmp_path).put(1, 2)
    checkpoint.save(tmp_path / NAME, {}, {"owner": 2})
    shelf = Shelf(tmp_path)
    assert shelf.step() == 1
    assert shelf.said == [f"{tmp_path / NAME} belongs; to another; going on from checkpoint.1.safetensors"]


def test_a_damaged_one_never_takes_the_place_of_a_good_one(tmp_path: Path) -> None:
    Shelf(tmp_path).put(1, 2)
    spoil(tmp_path / NAME)
    shelf = Shelf(tmp_path)
    shelf.load()
    shelf.put(3)
    assert steps(tmp_path) == {"checkpoint.1.safetensors": 1, NAME: 3}


def test_the_newest_ones_complaint_is_raised_when_none_is_good(tmp_path: Path) -> None:
    Shelf(tmp_path).put(1, 2)
    for path in tmp_path.iterdir():
        spoil(path)
    with pytest.raises(RunDirectoryError, match=rf"{NAME} does not match .*--fresh"):
        Shelf(tmp_path).load()


@pytest.mark.parametrize("number", range(1, 9))
def test_killed_anywhere_in_a_save_the_last_good_one_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Breaks off at the change to the folder with that number, of links, renames and deletions."""
    Shelf(tmp_path, keep=3).put(1, 2, 3)
    calls = iter(range(1, 100))

    def breaking(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if next(calls) == number:
                raise KeyboardInterrupt
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", breaking(os.link))
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, breaking(getattr(Path, name)))
        try:
            Shelf(tmp_path, keep=3).put(4)
            done = True
        except KeyboardInterrupt:
            done = False
    assert Shelf(tmp_path).step() in ((4,) if done else (3, 4))
    Shelf(tmp_path, keep=3).put(5, 6, 7)
    assert Shelf(tmp_path).step() == 7


def test_a_full_disk_leaves_the_checkpoints_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(1, 2)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fail)
        with pytest.raises(DiskFullError, match=rf"{NAME}; it takes 0\.0 MB"):
            shelf.put(3)
    assert steps(tmp_path) == {"checkpoint.1.safetensors": 1, NAME: 2}


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    Shelf(tmp_path).put(1, 2)
    assert steps(tmp_path) == {"checkpoint.1.safetensors": 1, NAME: 2}
    (tmp_path / NAME).unlink()  # killed between the two renames
    assert Shelf(tmp_path).step() == 1
