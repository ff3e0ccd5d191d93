"""stdout has the results of a command; what a network prints, however, is on stderr."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jstc.cli import console
from tests.helpers.children import environment

TALKS = """
import os, subprocess, sys
from torch import nn

print("at import")
own = sys.stdout

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))
        self[3] = nn.Linear(8 * 30 * 30, num_classes)

    def forward(self, images):
        print("in the forward")
        print("by another name", file=own)
        sys.__stdout__.write("of the process\\n")
        os.write(1, b"below Python\\n")
        subprocess.run(["echo", "by a child"], check=True)
        return super().forward(images)
"""
SAID = ("at import", "in the forward", "by another name", "of the process", "below Python", "by a child")


def test_a_document_stands_alone_whatever_the_network_prints(tmp_path):
    (tmp_path / "net.py").write_text(TALKS)
    words = ["inspect", "net.py:Net", "--dataset", "digits", "--json"]
    command = [sys.executable, "-m", "jstc", *words]
    done = subprocess.run(
        command, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["num_classes"] == 10
    assert set(SAID) <= set(done.stderr.splitlines())


def test_a_command_called_from_python_keeps_its_stdout_too(jstc_command, tmp_path):
    (tmp_path / "net.py").write_text(TALKS.replace("os.write(1", "os.write(2"))
    done = jstc_command("inspect", "net.py:Net", "--dataset", "digits", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["num_classes"] == 10
    assert "in the forward\n" in done.err
    print("afterwards")  # and stdout is what it was


def test_results_go_where_stdout_was_and_prints_do_not(capsys):
    with console.for_results_alone():
        print("said")
        console.text("found")
    print("afterwards")
    assert capsys.readouterr() == ("found\nafterwards\n", "said\n")


def test_a_file_of_results_has_no_prints(capsys, tmp_path):
    with console.for_results_alone(), console.redirected(tmp_path / "out.txt"):
        print("said")
        console.text("found")
    assert (tmp_path / "out.txt").read_text() == "found\n"
    assert capsys.readouterr() == ("", "said\n")


def test_a_failure_gives_stdout_back(capsys):
    with pytest.raises(RuntimeError), console.for_results_alone():
        raise RuntimeError
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"
