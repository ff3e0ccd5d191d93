"""Documents from anywhere: bounded, strict, and inside their folder."""

from __future__ import annotations

import json

import pytest

from jstc.core import files
from jstc.errors import DamagedError, InputError


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "nothing": (b"", "Expecting value"),
        "half": (b'{"a": ', "Expecting value"),
        "not text": (b"\xff\xfe", "can't decode"),
        "deep": (b"[" * 100_000, "nested too deep"),
        "twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
        "NaN": (b'{"a": NaN}', "NaN is no number"),
        "infinite": (b'{"a": -Infinity}', "-Infinity is no number"),
        "too large a number": (b'{"a": 1e999}', "1e999 is out of range"),
        "half a character": (b'{"a": "\\ud800"}', "surrogates not allowed"),
        "too long a number": (b"1" * 5000, "integer string conversion"),
    }.values(),
)
def test_json_that_we_never_write_is_refused_and_named(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(DamagedError, match=said) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ValueError)


def test_what_we_write_is_read(tmp_path):
    document = {"a": [1, 2.5, None, True, "é\u2028\U0001f600"], "b": {"c": -1e-300, "d": 2**70}}
    files.write_json(tmp_path / "x.json", document)
    assert files.read_json(tmp_path / "x.json") == document == json.loads((tmp_path / "x.json").read_text())


def test_no_more_is_read_than_the_limit(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:  # no disk is used, nor memory if all goes well
        file.truncate(2**40)
    with pytest.raises(DamagedError, match="larger than 64 MiB"):
        files.read_json(path)
    assert files.read_bytes(_holding(path, b"12345"), limit=5) == b"12345"
    with pytest.raises(DamagedError):
        files.read_bytes(_holding(path, b"123456"), limit=5)


def _holding(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../../x", "a/..", ".", "a//b", "a/", "..\\x", "C:x", "C:/x", "a\0b",
     "link/x", "link"],
)  # fmt: skip
def test_names_that_lead_out_of_a_folder_are_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(DamagedError):
        files.inside(tmp_path / "run", name)


def test_names_inside_a_folder_are_taken_also_through_links_within(tmp_path):
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "link").symlink_to("a")
    (tmp_path / "elsewhere").symlink_to("run")
    for name in ("a/x", "link/x", "new/x..y", ".x"):
        assert files.inside(tmp_path / "elsewhere", name) == tmp_path / "elsewhere" / name
