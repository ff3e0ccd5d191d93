"""A signal waits for the end of a step where somebody looks for it, and nowhere else."""

from __future__ import annotations

import os
import signal
import time

import pytest

from jstc.core import processes
from jstc.core.processes import interruptible

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def foreground():
    """SIGINT as in a shell's foreground; processes that a shell starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", BOTH)
def test_where_nobody_looks_it_interrupts_at_once(number):
    with interruptible(), pytest.raises(KeyboardInterrupt):
        send(number)


@pytest.mark.parametrize("number", BOTH)
def test_where_somebody_looks_it_waits_to_be_granted(number):
    steps = []
    with interruptible(), pytest.raises(KeyboardInterrupt), processes.signals_deferred():
        send(number)
        steps.append("the rest of the step")
        assert processes.stop_requested()
        processes.begin_saving()
        steps.append("saved")
        processes.stop()
    assert steps == ["the rest of the step", "saved"]
    assert not processes.stop_requested()


def test_a_second_signal_interrupts_at_once():
    with interruptible(), pytest.raises(KeyboardInterrupt), processes.signals_deferred():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        pytest.fail("it went on")
    assert not processes.stop_requested()


def test_a_step_that_takes_too_long_is_interrupted(monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.05)
    started = time.monotonic()
    with interruptible(), pytest.raises(KeyboardInterrupt), processes.signals_deferred():
        send(signal.SIGTERM)
        time.sleep(30)
    assert time.monotonic() - started < 20


def test_saving_may_take_as_long_as_it_needs(monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.05)
    with interruptible(), pytest.raises(KeyboardInterrupt), processes.signals_deferred():
        send(signal.SIGTERM)
        processes.begin_saving()
        time.sleep(0.2)
        processes.stop()
    time.sleep(0.1)


def test_a_request_that_nobody_granted_ends_with_the_block():
    with interruptible(), pytest.raises(KeyboardInterrupt):
        with processes.signals_deferred():
            send(signal.SIGTERM)
        pytest.fail("it went on")
    assert not processes.stop_requested()


def test_an_error_in_the_block_passes_and_leaves_no_request():
    with interruptible():
        with pytest.raises(ZeroDivisionError), processes.signals_deferred():
            send(signal.SIGTERM)
            raise ZeroDivisionError
        assert not processes.stop_requested()


def test_what_a_broken_worker_causes_is_the_interruption():
    with interruptible(), pytest.raises(KeyboardInterrupt), processes.signals_deferred():
        send(signal.SIGINT)
        raise RuntimeError("DataLoader worker exited unexpectedly")
    with interruptible(), pytest.raises(RuntimeError), processes.signals_deferred():
        raise RuntimeError("without a signal it is itself")


def test_a_forked_worker_leaves_the_stopping_to_the_process_it_works_for(monkeypatch):
    with interruptible(), processes.signals_deferred():
        monkeypatch.setattr(os, "getpid", lambda: -1)
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        handler(signal.SIGINT, None)
        assert not processes.stop_requested()


def test_what_ignores_ctrl_c_goes_on_doing_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_stuck_process_has_longer_than_one_that_saves_and_less_than_torchrun_gives() -> None:
    assert processes.GRACE_SECONDS < processes.STUCK_SECONDS < 30
