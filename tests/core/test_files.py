"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import pytest

from jstc.core import files
from jstc.errors import DamagedError, DiskFullError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "model.json"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the new")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        files.write_with(path, write)
    assert path.read_text() == "old" and names(tmp_path) == ["model.json"]


def test_a_writer_that_fails_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "new" / "a.json", {"a": object()})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "new" / "a.json", {"a": float("nan")})
    assert not (tmp_path / "new").exists() or names(tmp_path / "new") == []


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    seen = []

    def write(temporary):
        temporary.write_text("new")
        seen.append((path.read_text(), temporary.parent == path.parent, temporary.suffix))

    files.write_with(path, write)
    assert seen == [("old", True, ".txt")]
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_a_writer_may_replace_the_temporary_file(tmp_path):
    def write(temporary):
        other = temporary.with_name("other")
        other.write_text("renamed over it")
        other.replace(temporary)

    files.write_with(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "renamed over it" and names(tmp_path) == ["a.txt"]


def test_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle)))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda self, to: (order.append("rename"), replace(self, to))[1]
    )
    files.write_bytes(tmp_path / "a", b"data")
    assert order == ["fsync", "rename", "fsync"]


def test_missing_folders_are_made(tmp_path):
    files.write_bytes(tmp_path / "a" / "b" / "c.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"\x00\xff"


def test_everybody_may_read_what_was_written(tmp_path):
    files.write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize("document", [{"b": [1, 2.5, None, True], "a": "Zürich \u2603"}, [], "text", 3])
def test_json_comes_back(tmp_path, document):
    path = tmp_path / "a.json"
    files.write_json(path, document)
    assert files.read_json(path) == document
    assert path.read_bytes().endswith(b"\n") and json.loads(path.read_text(encoding="utf-8")) == document


def test_json_keeps_its_order_and_is_readable(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "ä": 2})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "ä": 2\n}\n'


def test_reading_what_is_no_json(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="utf-8"):
        files.read_json(tmp_path / "a.json")


def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"jstc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"jstc" * 100_000).hexdigest()


class LibraryError(Exception):
    """As that of safetensors, which carries the system's error in its text."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        LibraryError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("where", ["write", "fsync", "replace", "temporary"])
def test_a_full_disk_is_said_once_and_the_old_file_stays(tmp_path, monkeypatch, error, where):
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        if where == "fsync":
            patch.setattr(os, "fsync", fail)
        elif where == "replace":
            patch.setattr(type(tmp_path), "replace", fail)
        elif where == "temporary":
            patch.setattr("tempfile.mkstemp", fail)
        message = r"no space left on the disk for .*a\.json; it takes 2\.5 MB, [\d,.]+ MB are free\..* intact"
        with pytest.raises(DiskFullError, match=message):
            files.write_with(path, fail if where == "write" else lambda temporary: None, size=2_500_000)
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_any_other_error_of_the_system_passes_as_it_is(tmp_path):
    with pytest.raises(PermissionError), files.space_for(tmp_path / "a"):
        raise PermissionError(13, "Permission denied")


def test_nothing_is_appended_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "log").symlink_to("precious")
    with pytest.raises(OSError, match="log"), files.open_to_append(tmp_path / "log"):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedError, match="is a pipe"):
        files.open_to_append(tmp_path / "pipe")
    for word in (b"a", b"b"):
        with files.open_to_append(tmp_path / "new") as file:
            file.write(word)
    assert (tmp_path / "new").read_text() == "ab" and (tmp_path / "precious").read_text() == "x"
