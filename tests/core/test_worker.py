"""Processes that work for another leave signals to it, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jstc.core import worker
from jstc.core.signals import ENDING, interruptible
from tests.helpers.children import environment

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="this system has no sigtimedwait")


def work(ready) -> None:
    worker.serve()
    ready.send(1)
    time.sleep(120)


@pytest.fixture
def serving():
    """A process that works for this one, is settled in, and is busy."""
    here, there = multiprocessing.Pipe()
    with worker.starting():
        process = multiprocessing.get_context("fork").Process(target=work, args=[there], daemon=True)
        process.start()
    assert here.recv() == 1
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_to_all_processes_is_left_to_the_one_that_leads(serving, number):
    subprocess.run(["kill", f"-{int(number)}", str(serving.pid)], check=True)
    serving.join(0.3)
    assert serving.is_alive()


def work_elsewhere(ready) -> None:
    del signal.pthread_sigmask
    work(ready)


def test_ctrl_c_is_left_to_it_where_signals_cannot_be_blocked():
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work_elsewhere, args=[there], daemon=True)
    process.start()
    assert here.recv() == 1
    os.kill(process.pid, signal.SIGINT)
    process.join(0.3)
    assert process.is_alive()
    process.kill()
    process.join()


def test_the_word_of_the_one_that_leads_is_obeyed(serving):
    serving.terminate()
    serving.join(20)
    assert serving.exitcode == 0


def test_a_killed_one_is_gone(serving):
    serving.kill()
    serving.join(20)
    assert serving.exitcode == -signal.SIGKILL


def test_all_are_ended_without_a_word(serving, capfd):
    before = signal.getsignal(signal.SIGCHLD)
    try:
        worker.end_all()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not serving.is_alive()
    assert capfd.readouterr().err == ""


LEADER = """
import multiprocessing, time
from tests.core.test_worker import work
here, there = multiprocessing.Pipe()
processes = [multiprocessing.get_context("{start}").Process(target=work, args=[there]) for _ in range(2)]
if __name__ == "__main__":
    for process in processes:
        process.start()
        here.recv()
    print(*(process.pid for process in processes), flush=True)
    time.sleep(120)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_none_outlives_one_that_is_killed(start, tmp_path):
    program = tmp_path / "leader.py"
    program.write_text(LEADER.format(start=start))
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, env=environment()) as leader:
        workers = [int(word) for word in leader.stdout.readline().split()]
        assert len(workers) == 2
        leader.kill()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_blocked_signals_wait_for_the_end_of_the_block():
    steps = []
    with interruptible(), pytest.raises(KeyboardInterrupt):
        with worker.starting():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            steps.append("the block")
        time.sleep(30)
    assert steps == ["the block"]


@pytest.mark.parametrize(("code", "waits"), [(-15, True), (-1, True), (-9, False), (1, False), (None, False)])
def test_what_has_ended_a_child_is_awaited_here(code, waits, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    worker.await_own(code)
    assert bool(slept) == waits
