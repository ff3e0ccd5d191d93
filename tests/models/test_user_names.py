"""Mistakes in the names of the user's own networks: what was meant, found without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest

import jstc.models
from jstc.errors import ModelError
from jstc.models.user_names import defined_in

NETS = """
raise SystemExit("it was run")
from math import sqrt
def make(num_classes=10): ...
class Net: ...
def _helper(): ...
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("empty.py").write_text("x = 1\n")
    Path("weights.bin").write_text("")
    Path("notes.txt").write_text("")
    Path("zoo").mkdir()
    Path("zoo/__init__.py").write_text("")
    Path("zoo/small.py").write_text("def tiny(): ...\n")
    return tmp_path


REFUSED = {
    # a file, or a module, without the factory
    "nets.py": "say which function or class builds the network, after a colon: nets.py:make or nets.py:Net",
    "./nets.py": "say which .*, after a colon: ./nets.py:make or ./nets.py:Net",
    "nets": "say which .*, after a colon: nets.py:make or nets.py:Net",
    "zoo.small": "say which .*, after a colon: zoo.small:tiny",
    "zoo/small": "say which .*, after a colon: zoo/small.py:tiny",
    "nets.py:": "expected .* name of a function after the colon, such as nets.py:make or nets.py:Net",
    "empty.py": "expected .*; the file defines no function and no class",
    # a folder
    "zoo": "is a folder; expected 'path/to/file.py:factory' or .*, such as zoo/small.py:tiny",
    "zoo/:tiny": "is a folder; .*, such as zoo/small.py:tiny",
    # another kind of file
    "notes.txt": "is a file, and no Python file; a network goes by its name, and .* with --weights",
    "weights.bin": "is a file of weights, .*file.py:factory, and --weights weights.bin beside it",
    "runs/x/model.safetensors": "is a file of weights, .* --weights runs/x/model.safetensors beside it",
    "w.PT": "is a file of weights, .* --weights w.PT beside it",
    "model.onnx": "is a network after its export, .*file.py:factory; 'jstc bench' and 'jstc eval' take .*",
    # a slip
    "nest.py:make": "there is no file nest.py in .*; did you mean 'nets.py:make'?",
    "nest.py": "there is no file nest.py in .*; did you mean 'nets.py:make' or 'nets.py:Net'?",
    "zoo/smal.py:tiny": "there is no file zoo/smal.py in .*; did you mean 'zoo/small.py:tiny'?",
    "zoo/small:tiny": "'zoo/small' is neither a .py file nor the name of a module; did you mean "
    "'zoo/small.py:tiny'?",
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_what_was_meant_is_said_without_running_it(name, message):
    with pytest.raises(ModelError, match=f"^model '{name}'.*{message.replace('?', '[?]')}$"):
        jstc.models.check(name)


def test_what_a_file_defines():
    assert defined_in(Path("nets.py")) == ["make", "Net"]
    Path("broken.py").write_text("def make(:\n")
    assert defined_in(Path("broken.py")) == defined_in(Path("missing.py")) == []


def build(name):
    jstc.models.build(jstc.models.spec(name, num_classes=3, in_channels=3, height=8, width=8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nets.pyy:make",
            r"no module 'nets\.pyy', neither in .* nor installed; did you mean 'nets\.py:make'\?",
        ),
        ("zoo.smal:tiny", r"no module 'zoo\.smal', .*; did you mean 'zoo/small\.py:tiny'\?"),
        ("no_such.thing:tiny", r"no module 'no_such\.thing', neither in .* nor installed$"),
        ("zoo/small.py:tyni", r"zoo/small\.py has no function 'tyni'; did you mean 'zoo/small\.py:tiny'\?"),
        ("zoo/small.py:other", r"zoo/small\.py has no function 'other'; it has tiny$"),
        ("empty.py:other", r"empty\.py has no function 'other'$"),
    ],
)
def test_what_is_found_only_by_importing_has_near_names_too(name, message):
    Path("nets.py").write_text("def make(): ...\n")
    with pytest.raises(ModelError, match=message):
        build(name)


def test_the_names_of_a_module_that_has_many_are_cut_off():
    Path("many.py").write_text("".join(f"def f{n}(): ...\n" for n in range(9)))
    with pytest.raises(ModelError, match=r"it has f0, f1, f2, f3, f4 and 4 more$"):
        build("many.py:other")
    with pytest.raises(ModelError, match=r"many.py:f3 or many.py:f4 \(4 more\)$"):
        jstc.models.check("many.py")


def test_a_file_with_relative_imports_is_to_be_named_as_a_module(monkeypatch, here):
    Path("zoo/nets.py").write_text("\nfrom .small import tiny\n\ndef make(): return tiny()\n")
    with pytest.raises(ModelError, match=r"line 2; relative imports .*: name it zoo\.nets:make$"):
        build("zoo/nets.py:make")
    monkeypatch.chdir("zoo")
    with pytest.raises(ModelError, match=rf": name it zoo\.nets:make, and run jstc in {here}$"):
        build("nets.py:make")


def test_a_relative_import_to_the_folder_above_needs_that_too(here):
    Path("plain/inner").mkdir(parents=True)
    Path("plain/inner/nets.py").write_text("from ..other import make\n")
    with pytest.raises(ModelError, match=r": name it plain\.inner\.nets:make$"):
        build("plain/inner/nets.py:make")


@pytest.mark.parametrize(
    "text", ["from zoo.small import huge", "raise ImportError('no')", "import no_such_thing"]
)
def test_another_failed_import_has_no_such_advice(text):
    Path("zoo/nets.py").write_text(f"{text}\ndef make(): ...\n")
    with pytest.raises(ModelError, match=r"cannot be imported: .*line 1$"):
        build("zoo/nets.py:make")
