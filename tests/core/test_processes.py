"""Which of several processes this one is."""

from __future__ import annotations

import pytest

from jstc.core import processes

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "9", "WORLD_SIZE": "16",
    "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    """Set torchrun's variables, with changes."""

    def start(**changes):
        for name, value in (TORCHRUN | changes).items():
            monkeypatch.setenv(name, value)

    return start


def test_alone_by_default(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert (processes.rank(), processes.world(), processes.local_rank(), processes.local_world()) == (
        0,
        1,
        0,
        1,
    )
    assert not processes.several() and not processes.leads() and not processes.follows()


def test_as_torchrun_says(started):
    started()
    assert (processes.rank(), processes.world(), processes.local_rank(), processes.local_world()) == (
        9,
        16,
        1,
        8,
    )
    assert (processes.follows(), processes.leads(), processes.restarts()) == (True, False, 2)


def test_process_0_leads(started):
    started(RANK="0")
    assert (processes.follows(), processes.leads()) == (False, True)


def test_torchrun_with_one_process_is_one_process(started):
    started(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    assert not processes.several() and not processes.leads()
    assert processes.restarts() == 2


def test_variables_of_other_programs_are_none_of_ours(monkeypatch, started):
    started()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert (processes.rank(), processes.world(), processes.restarts()) == (0, 1, 0)
