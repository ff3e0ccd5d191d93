"""A signal waits for the end of a step, or of an import, and ends the command once."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from jstc.core import processes, signals, worker
from jstc.core.signals import ENDING, interruptible
from tests.helpers.children import environment


@pytest.fixture(autouse=True)
def foreground():
    """SIGINT as in a shell's foreground; processes that a shell starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_where_nobody_looks_it_interrupts_at_once(number):
    with interruptible(), pytest.raises(KeyboardInterrupt):
        send(number)


@pytest.mark.parametrize("number", ENDING)
def test_where_somebody_looks_it_waits_to_be_granted(number):
    steps = []
    with interruptible(), pytest.raises(KeyboardInterrupt), signals.signals_deferred():
        send(number)
        steps.append("the rest of the step")
        assert signals.stop_requested()
        signals.begin_saving()
        steps.append("saved")
        signals.stop()
    assert steps == ["the rest of the step", "saved"]
    assert not signals.stop_requested()


def test_a_second_signal_interrupts_at_once(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SECONDS", 0)
    with interruptible(), pytest.raises(KeyboardInterrupt), signals.signals_deferred():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        pytest.fail("it went on")
    assert not signals.stop_requested()


def test_a_step_that_takes_too_long_is_interrupted(monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.05)
    started = time.monotonic()
    with interruptible(), pytest.raises(KeyboardInterrupt), signals.signals_deferred():
        send(signal.SIGTERM)
        time.sleep(30)
    assert time.monotonic() - started < 20


def test_saving_may_take_as_long_as_it_needs(monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.05)
    with interruptible(), pytest.raises(KeyboardInterrupt), signals.signals_deferred():
        send(signal.SIGTERM)
        signals.begin_saving()
        time.sleep(0.2)
        signals.stop()
    time.sleep(0.1)


def test_a_request_that_nobody_granted_ends_with_the_block():
    with interruptible(), pytest.raises(KeyboardInterrupt):
        with signals.signals_deferred():
            send(signal.SIGTERM)
        pytest.fail("it went on")
    assert not signals.stop_requested()


def test_an_error_in_the_block_passes_and_leaves_no_request():
    with interruptible():
        with pytest.raises(ZeroDivisionError), signals.signals_deferred():
            send(signal.SIGTERM)
            raise ZeroDivisionError
        assert not signals.stop_requested()


def test_what_a_broken_worker_causes_is_the_interruption():
    with interruptible(), pytest.raises(KeyboardInterrupt), signals.signals_deferred():
        send(signal.SIGINT)
        raise RuntimeError("DataLoader worker exited unexpectedly")
    with interruptible(), pytest.raises(RuntimeError), signals.signals_deferred():
        raise RuntimeError("without a signal it is itself")


def test_a_fork_leaves_the_stopping_to_the_process_it_works_for(monkeypatch):
    with interruptible(), signals.signals_deferred():
        monkeypatch.setattr(os, "getpid", lambda: -1)
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        handler(signal.SIGINT, None)
        assert not signals.stop_requested()


@pytest.mark.parametrize("number", ENDING)
def test_what_is_told_to_ignore_a_signal_goes_on_doing_so(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interruptible():
            send(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_fork_obeys_whoever_ends_it():
    reading, writing = os.pipe()
    with interruptible(), signals.signals_deferred():
        child = os.fork()
        if not child:
            try:
                os.write(writing, b"1")
                time.sleep(60)
            finally:
                os._exit(3)
        assert os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_one_that_is_sent_twice_is_one():
    """As by `timeout`: to its child, and to the whole group."""
    steps = []
    with interruptible(), pytest.raises(KeyboardInterrupt), signals.signals_deferred():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        steps.append("the rest of the step")
        signals.stop()
    with interruptible():
        try:
            send(signal.SIGHUP)
        except KeyboardInterrupt:
            send(signal.SIGHUP)
            steps.append("what follows an interruption")
    assert len(steps) == 2


def test_torchrun_may_pass_it_on_late(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SECONDS", 0)
    monkeypatch.setattr(processes, "several", lambda: True)
    with interruptible(), pytest.raises(KeyboardInterrupt), signals.signals_deferred():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        signals.begin_saving()
        assert signals.stop_requested()
        signals.stop()


MODULE = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
except BaseException:
    interrupted = True
else:
    interrupted = False
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that gets a signal while it is loaded, and catches whatever is raised there."""
    (tmp_path / "loaded_slowly.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "loaded_slowly"
    sys.modules.pop("loaded_slowly", None)


def test_an_import_comes_to_its_end_first(module):
    with interruptible(), pytest.raises(KeyboardInterrupt):
        loaded = importlib.import_module(module)
        assert not loaded.interrupted
        time.sleep(30)
    assert not sys.modules[module].interrupted
    assert signals.was_interrupted()


def test_but_not_an_import_that_does_not_end(module, monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.1)
    with interruptible():
        assert importlib.import_module(module).interrupted


def test_one_in_an_import_is_not_lost_at_the_end_of_a_stage(module):
    with interruptible(), pytest.raises(KeyboardInterrupt):
        importlib.import_module(module)
        signals.require_none_lost()


def test_what_a_library_has_caught_is_not_lost_at_the_end_of_a_stage():
    with interruptible():
        with contextlib.suppress(BaseException):
            send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signals.require_none_lost()
    with interruptible():
        signals.require_none_lost()


class Finalised:
    def __del__(self):
        send(signal.SIGTERM)
        time.sleep(0.01)


def test_where_nobody_can_catch_it_it_comes_again_and_says_nothing(capfd):
    with interruptible(), pytest.raises(KeyboardInterrupt):
        Finalised()
        time.sleep(30)
    assert capfd.readouterr().err == ""


def test_none_is_taken_while_the_process_leaves_by_itself():
    leaving = [True]
    with interruptible(unless=lambda: leaving[0]):
        send(signal.SIGTERM)
        leaving[0] = False
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


PROGRAM = """
import os, signal, sys
from jstc.core import signals
signals.to_the_end()
try:
    {body}
except KeyboardInterrupt:
    signals.final(130)
    print("told", flush=True)
{after}
sys.exit(signals.was_interrupted() * 130)
"""


@pytest.mark.parametrize(
    ("body", "after", "code", "out"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", "", 130, "told\n"),
        # Another one, once the first was told: at once, whatever is still to do.
        (
            "os.kill(os.getpid(), signal.SIGHUP)",
            "os.kill(os.getpid(), signal.SIGINT)\nprint(1)",
            130,
            "told\n",
        ),
        ("signals.final(0)", "os.kill(os.getpid(), signal.SIGTERM)\nprint('not reached')", 0, ""),
        ("signals.final(3)", "print('the rest')", 3, "the rest\n"),
        ("pass", "", 0, ""),
    ],
)
def test_to_the_end_of_a_process(body, after, code, out):
    program = PROGRAM.format(body=body, after=after)
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, "")


def test_a_stuck_process_has_longer_than_one_that_saves_and_less_than_torchrun_gives() -> None:
    assert signals.GRACE_SECONDS < worker.STUCK_SECONDS < 30
