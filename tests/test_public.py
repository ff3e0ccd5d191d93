"""The public face: these names, documented, typed, and cheap to import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jstc
from tests.helpers.children import environment

PUBLIC = [
    "ChannelMap", "JointSearch", "JstcError", "Plan", "Recipe", "SearchResult", "SearchResults", "Slim",
    "analyse", "export_onnx", "load", "load_recipe", "rebuild", "recalibrate", "rule", "search",
]  # fmt: skip
ENVIRONMENT = environment()


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_these_names_are_public():
    assert sorted(jstc.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(jstc))
    assert Path(jstc.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name):
    thing = getattr(jstc, name)
    assert callable(thing)
    assert inspect.getdoc(thing)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'jstc' has no attribute 'serach'"):
        _ = jstc.serach


def test_importing_jstc_is_cheap():
    heavy = "{'torch', 'numpy', 'onnx', 'onnxruntime', 'pydantic', 'yaml', 'rich', 'typer'}"
    assert run_python(f"import sys, jstc; print({heavy} & set(sys.modules))") == "set()"


def test_search_stays_callable_after_its_modules_are_imported():
    code = "import jstc, jstc.jst.space; jstc.search()"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_python(code)
    assert "missing" in caught.value.stderr
    assert "TypeError: search()" in caught.value.stderr
