"""Whose code may be run: what was named on a command line, from the same source."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jstc.errors import ModelError
from jstc.models import user_code


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("JSTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(user_code, "_trusted", set())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("net.py").write_text("def make(): ...\n")
    return tmp_path


def later():
    """As in another process of the same user."""
    user_code._trusted.clear()


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "timm:resnet18"])
def test_code_of_libraries_needs_no_word(name, somewhere):
    user_code.require_trusted(name)
    user_code.trust(name)
    assert not (somewhere / "cache").exists()


def test_what_was_named_once_is_remembered(monkeypatch, somewhere):
    with pytest.raises(ModelError, match=r"runs code, 'net.py:make', .* add --model net.py:make$"):
        user_code.require_trusted("net.py:make")
    user_code.require_trusted("net.py:make", named="net.py:make")
    later()
    user_code.require_trusted("net.py:make")
    user_code.require_trusted(f"{somewhere}/here/net.py:make")
    monkeypatch.chdir(somewhere)
    user_code.require_trusted("here/net.py:make")


def test_another_factory_another_file_and_a_changed_one_are_not(monkeypatch, somewhere):
    user_code.trust("net.py:make")
    later()
    assert not user_code.is_trusted("net.py:other")
    (somewhere / "elsewhere").mkdir()
    (somewhere / "elsewhere" / "net.py").write_text("def make(): ...\n")
    assert not user_code.is_trusted("../elsewhere/net.py:make")
    Path("net.py").write_text("import os\n")
    assert not user_code.is_trusted("net.py:make")


def test_naming_another_one_is_a_mistake():
    with pytest.raises(ModelError, match=r"--model mine.py:make: .* this run is 'net.py:make'"):
        user_code.require_trusted("net.py:make", named="mine.py:make")
    user_code.require_trusted("net.py:make", named="./net.py:make")


def test_modules_are_found_without_running_them(monkeypatch, somewhere):
    package = somewhere / "here" / "someones_nets"
    package.mkdir()
    for name in ("__init__", "small"):
        (package / f"{name}.py").write_text("raise SystemExit('it was run')\n")
    user_code.trust("someones_nets.small:make")
    later()
    assert user_code.is_trusted("someones_nets.small:make")
    assert not user_code.is_trusted("someones_nets:make")
    assert "someones_nets" not in sys.modules
    monkeypatch.chdir(somewhere)  # where another package may have that name
    assert not user_code.is_trusted("someones_nets.small:make")


@pytest.mark.parametrize("name", ["os:abort", "builtins:exec", "sys:exit", "no.such.module:make"])
def test_installed_modules_are_code_too(name):
    with pytest.raises(ModelError, match="runs code"):
        user_code.require_trusted(name)
    user_code.require_trusted(name, named=name)


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, somewhere):
    (somewhere / "file").write_text("")
    monkeypatch.setenv("JSTC_CACHE", str(somewhere / "file"))
    user_code.require_trusted("net.py:make", named="net.py:make")
    user_code.require_trusted("net.py:make")
    later()
    assert not user_code.is_trusted("net.py:make")


@pytest.mark.parametrize("text", ["", "[" * 9999, "{}", '{"model": "x"}'])
def test_a_damaged_record_is_none(somewhere, text):
    user_code.trust("net.py:make")
    later()
    [record] = (somewhere / "cache" / "models").iterdir()
    record.write_text(text)
    assert not user_code.is_trusted("net.py:make")
