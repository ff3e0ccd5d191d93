"""Nothing is written into a folder that is not the one that this process works in."""

from __future__ import annotations

import shutil

import pytest

from jstc.core import files
from jstc.core.files import held, require_held
from jstc.errors import FolderGoneError


@pytest.fixture
def folder(tmp_path):
    """A folder with a file in it that stands for its lock."""
    found = tmp_path / "run"
    found.mkdir()
    (found / ".lock").touch()
    return found


def test_a_folder_that_is_there_is_written_to(folder):
    with held(folder, folder / ".lock"), (folder / ".lock").open():
        files.write_text(folder / "search" / "plan.json", "{}")
    assert (folder / "search" / "plan.json").exists()


def gone(folder):
    shutil.rmtree(folder)


def moved(folder):
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder):
    moved(folder)
    folder.mkdir()
    (folder / ".lock").touch()


def unlocked(folder):
    (folder / ".lock").unlink()


@pytest.mark.parametrize("change", [gone, moved, replaced, unlocked])
def test_one_that_is_not_is_not(folder, change):
    with held(folder, folder / ".lock"), (folder / ".lock").open():
        change(folder)
        left = sorted(folder.rglob("*"))
        for path in (folder, folder / "search" / "plan.json"):
            with pytest.raises(FolderGoneError, match=f"^{folder} .*was deleted, moved or replaced"):
                files.write_text(path, "{}")
        files.write_text(folder.with_name("other.json"), "{}")
    assert sorted(folder.rglob("*")) == left
    require_held(folder)  # nobody's any more
