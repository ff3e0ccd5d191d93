"""`--precision fp32 fp16 int8`: names and the run in any order, and what is wrong said plainly."""

from __future__ import annotations

from pathlib import Path

import pytest

from jstc.cli.export import told_apart
from jstc.errors import InputError, UnknownNameError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run", "fp16"):
        (tmp_path / name).mkdir()


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        ([], [], (None, [])),
        (["run"], [], (Path("run"), [])),
        (["fp16", "int8"], ["fp32"], (None, ["fp32", "fp16", "int8"])),
        (["run", "int8"], ["fp32"], (Path("run"), ["fp32", "int8"])),
        (["int8", "run"], ["fp32"], (Path("run"), ["fp32", "int8"])),
        (["run"], ["fp32,fp16", "int8"], (Path("run"), ["fp32", "fp16", "int8"])),
        (["fp16,int8"], ["fp32"], (None, ["fp32", "fp16", "int8"])),
        (["./fp16"], ["fp32"], (Path("fp16"), ["fp32"])),
        (["fp16"], [], (Path("fp16"), [])),
    ],
)
def test_the_run_and_the_precisions_are_told_apart(words, given, expected):
    assert told_apart(words, given) == expected


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        ([], ["fp61"], "unknown precision 'fp61'; did you mean 'fp16'? (precisions are fp32, fp16 and int8)"),
        (["run"], ["fp32,int"], "unknown precision 'int'; did you mean 'int8'?"),
        (["fp61"], ["fp32"], "unknown precision 'fp61'; did you mean 'fp16'?"),
        (["fp16,int9"], ["fp32"], "unknown precision 'int9'; did you mean 'int8'?"),
        ([], [""], "unknown precision ''"),
    ],
)
def test_an_unknown_precision_is_refused_with_near_names(words, given, said):
    with pytest.raises(UnknownNameError) as caught:
        told_apart(words, given)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (["nowhere"], [], "no run directory at nowhere"),
        (["nowhere"], ["fp32"], "no run directory at nowhere"),
        (["int8"], [], "no run directory at int8; for a precision: --precision int8"),
        (["run", "fp16"], [], "give one run directory, not run and fp16"),
        (["run", "./fp16"], ["int8"], "give one run directory, not run and ./fp16"),
    ],
)
def test_a_run_that_is_not_there_and_one_too_many(words, given, said):
    with pytest.raises(InputError) as caught:
        told_apart(words, given)
    assert str(caught.value) == said
