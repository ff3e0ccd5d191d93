"""A signal ends a command with exit code 130 and one line, from its first import on; in real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jstc.core.signals import ENDING
from tests.helpers.children import environment

INTERRUPTED = "error: interrupted; the same command begins again, or goes on where it was\n"

# The command line, told to end when it loads a module for the first time, or when it leaves.
PROGRAM = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            for _ in range({times}):
                os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Watch())
sys.argv = ["jstc", *{words!r}]
from jstc.cli import main
main()
"""


def interrupted(module: str, number: int, *words: str, times: int = 1) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(module=module, number=int(number), words=words, times=times)
    return subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        # What a shell starts in the background is to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("module", ["jstc.cli.exit_codes", "typer", "rich.table"])
def test_while_modules_are_loaded(module, number):
    done = interrupted(module, number, "models", times=1 + (number == signal.SIGTERM))
    # A signal waits for an import: what the command was about to say when that ends may come first.
    said = done.stderr.removesuffix(INTERRUPTED)
    assert (done.returncode, done.stderr) == (130, said + INTERRUPTED)
    assert said in ("", "Also: timm:NAME, hf:ORG/NAME, path/to/file.py:factory, package.module:factory\n")


def test_a_run_names_the_command_that_continues_from_its_first_check_on(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: resnet20\ndataset: digits\nflops: 0.5\n")
    done = interrupted("jstc.runs.network_check", signal.SIGTERM, "run", str(recipe), "--out", "x")
    assert done.returncode == 130
    assert done.stderr == (
        f"error: interrupted; what was finished is saved. Continue with:\n  jstc run {recipe} --out x\n"
    )


@pytest.mark.parametrize("number", ENDING)
def test_what_nohup_starts_goes_on(number):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module="typer", number=int(number), words=["models"], times=1)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )
    assert done.returncode == 0
    assert "resnet20" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_reader_that_is_gone_changes_nothing(tmp_path):
    """As a terminal that has been closed: what is told is told to nobody."""
    program = PROGRAM.format(module="typer", number=int(signal.SIGHUP), words=["models"], times=1)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], check=False, stderr=full, env=environment())
    assert done.returncode == 130
