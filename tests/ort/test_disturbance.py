"""What /proc says of a stretch of time, in words and shares."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from jstc.core import processes
from jstc.ort.doubts import Disturbance, Watch

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """A machine of two cores whose counters a test turns on."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock, self.own = root, 0.0, 0.0
        self.user = self.idle = self.stolen = self.waited = 0.0
        self.pass_time(0.0)

    def pass_time(self, seconds: float, *, own: float = 0.0, others: float = 0.0, stolen: float = 0.0,
                  waited: float = 0.0) -> None:  # fmt: skip
        """`own`, `others` and `stolen` are seconds of cores; whatever is left of two cores is idle."""
        self.clock += seconds
        self.own += own
        self.user += own + others
        self.stolen += stolen
        self.waited += waited
        self.idle += 2 * seconds - own - others - stolen
        columns = [self.user, 0, 0, self.idle, 0, 0, 0, self.stolen, 0, 0]
        (self.root / "proc" / "self" / "task" / "7").mkdir(parents=True, exist_ok=True)
        ticks = " ".join(str(round(TICKS * value)) for value in columns)
        (self.root / "proc" / "stat").write_text(f"cpu  {ticks}\ncpu0 1 2\n")
        text = f"{round(1e9 * self.own)} {round(1e9 * self.waited)} 3\n"
        (self.root / "proc" / "self" / "task" / "7" / "schedstat").write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(time, "perf_counter", lambda: made.clock)
    monkeypatch.setattr(time, "process_time", lambda: made.own)
    return made


def test_our_own_work_is_nobody_elses(machine: Machine) -> None:
    machine.pass_time(100, own=200)  # a training before
    with Watch(machine.root) as watch:
        machine.pass_time(10, own=15)
    assert watch.found == Disturbance(others=0.0, waited=0.0, stolen=0.0)
    assert not watch.found.is_busy
    assert watch.found.told == ""


def test_others_waiting_and_the_host_are_told_apart(machine: Machine) -> None:
    with Watch(machine.root) as watch:
        machine.pass_time(10, own=6, others=12, stolen=2, waited=4)
    machine.pass_time(100, own=100)  # after it
    assert watch.found == Disturbance(others=0.6, waited=0.4, stolen=0.1)
    assert watch.found.is_busy
    assert watch.found.told == (
        "other programs took 60 % of the processor, the measured threads waited 40 % of their time for a "
        "core, the host gave 10 % of the processor to others"
    )


def test_a_moment_is_too_short_to_say(machine: Machine) -> None:
    with Watch(machine.root) as watch:
        machine.pass_time(0.1, others=0.2)
    assert watch.found == Disturbance()
    assert not watch.found.is_busy


def test_elsewhere_the_load_stands_in_less_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.8, 0.0, 0.0))
    for seconds, others in ((6.0, 0.85), (600.0, 0.0)):  # what this process has computed since it began
        monkeypatch.setattr(os, "times", lambda seconds=seconds: os.times_result((seconds, 0, 0, 0, 0)))
        with Watch(tmp_path / "none") as watch:
            machine.pass_time(1)
        assert watch.found == Disturbance(others=pytest.approx(others))


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="Linux counts it")
def test_this_machine_is_understood() -> None:
    with Watch() as watch:
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
    assert watch.found.waited is not None
    assert watch.found.others is not None
    assert 0 <= watch.found.others <= 1
