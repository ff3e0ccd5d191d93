"""The chain: order, skipping, repair, resumption, interruption. The stages here only leave traces."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time

import pytest
import torch

from jstc.core.signals import ENDING
from jstc.errors import DiskFullError, FolderGoneError, Interrupted, StageError
from jstc.recipe import loading
from jstc.runs import preflight, stages
from jstc.runs.directory import RunDirectory

ORDER = ["baseline", "search", "finetune", "slim", "export", "bench", "report"]


def fault(error):
    def fail():
        raise error

    return fail


def test_all_stages_run_in_order_and_are_on_record(house):
    assert house.run() == ORDER
    manifest = json.loads((house.path / "manifest.json").read_text())
    assert set(house.states().values()) == {"done"}
    assert set(manifest["stages"]["search"]["artifacts"]) == {"search/work", "search/result.json"}
    assert set(manifest["stages"]["report"]["artifacts"]) == {"report/work", "summary.json"}
    result = json.loads((house.path / "search" / "result.json").read_text())
    assert result["figure"] == 1
    assert result["seconds"] >= 0


def test_the_same_command_again_does_nothing(house):
    house.run()
    assert house.run() == []


@pytest.mark.parametrize(
    ("damaged", "again"),
    [
        ("search/work", ["search", "finetune", "slim", "export", "bench", "report"]),
        ("export/result.json", ["export", "bench", "report"]),
        ("baseline/work", ["baseline", "bench", "report"]),
        ("summary.json", ["report"]),
    ],
)
def test_a_damaged_artifact_makes_its_stage_and_all_that_build_on_it_run_again(house, damaged, again):
    house.run()
    (house.path / damaged).write_text("{}   ")
    assert house.run() == again
    assert any(damaged in text and "running it again" in text for text in house.messages.texts)
    assert house.run() == []


def test_a_stage_that_runs_again_starts_from_an_empty_folder(house):
    house.run()
    (house.path / "search" / "checkpoint").write_text("of the damaged stage")
    (house.path / "search" / "work").unlink()
    house.run()
    assert not (house.path / "search" / "checkpoint").exists()


def test_a_failed_stage_keeps_its_files_and_its_seconds_and_goes_on(house):
    house.faults["slim"] = fault(StageError("no"))
    with pytest.raises(StageError, match="no"):
        house.run()
    assert house.states()["slim"] == "failed"
    assert house.states()["export"] == "pending"
    assert (house.path / "slim" / "work").exists()
    assert house.run() == ["slim", "export", "bench", "report"]


def test_seconds_add_up_over_interruptions(house, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("jstc.runs.stopwatch.time.monotonic", lambda: now[0])
    for error in (StageError("no"), None):

        def work(error=error):
            now[0] += 7.0
            if error:
                raise error

        house.faults["search"] = work
        try:
            house.run()
        except StageError:
            assert error
    assert json.loads((house.path / "search" / "result.json").read_text())["seconds"] == 14.0


@pytest.fixture
def foreground():
    """SIGINT as in a shell's foreground; processes that a shell starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_interrupts_with_the_command_that_continues(house, number):
    house.faults["finetune"] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match=r"interrupted during finetune.*saved.*\n  jstc run x.yaml"):
        house.run()
    assert house.states()["finetune"] == "failed"
    assert house.run() == ["finetune", "slim", "export", "bench", "report"]


@pytest.mark.parametrize(("owner", "name"), [(preflight, "check"), (RunDirectory, "finish")])
def test_so_does_one_before_a_stage_and_after_it(house, monkeypatch, owner, name):
    """While the input is checked, and while a stage that has done its work is put on record."""
    before = getattr(owner, name)

    def interrupted(*args, **options):
        monkeypatch.setattr(owner, name, before)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(Interrupted, match=r"^interrupted; what was finished is saved.*\n  jstc run x.yaml$"):
        house.run()
    assert house.run()
    assert set(house.states().values()) == {"done"}


@pytest.mark.parametrize("raised", [None, SystemError("initialization raised unreported exception")])
def test_what_a_library_makes_of_a_signal_is_the_interruption(house, raised):
    def caught():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        if raised:
            raise raised

    house.faults["export"] = caught
    with pytest.raises(Interrupted, match="interrupted during export"):
        house.run()
    assert house.states()["export"] == "failed"


@pytest.mark.parametrize("raised", [None, FileNotFoundError(2, "No such file", "x"), KeyboardInterrupt()])
def test_a_deleted_run_directory_ends_the_run_and_does_not_come_again(house, raised):
    def deleted():
        shutil.rmtree(house.path)
        if raised:
            raise raised

    house.faults["finetune"] = deleted
    with pytest.raises(FolderGoneError, match=r"was deleted, moved or replaced while a run was at work"):
        house.run()
    assert not house.path.exists()
    assert house.run() == ORDER


def test_one_that_another_run_has_taken_the_place_of_is_left_alone(house, tmp_path):
    def replaced():
        house.path.rename(tmp_path / "away")
        house.path.mkdir()
        (house.path / ".lock").touch()

    house.faults["search"] = replaced
    with pytest.raises(FolderGoneError):
        house.run()
    assert [path.name for path in house.path.iterdir()] == [".lock"]


def test_the_handler_of_sigterm_is_put_back(house):
    before = signal.getsignal(signal.SIGTERM)
    house.run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_running_out_of_gpu_memory_names_the_way_out(house):
    house.faults["search"] = fault(torch.OutOfMemoryError("CUDA out of memory\nmore"))
    with pytest.raises(StageError, match=r"^search: out of GPU memory; lower train.batch_size \(CUDA out"):
        house.run()


def test_an_error_that_is_only_called_so_passes_as_it_is(house):
    house.faults["search"] = fault(type("OutOfMemoryError", (RuntimeError,), {})("somebody else's"))
    with pytest.raises(RuntimeError, match=r"^somebody else's$"):
        house.run()


def test_any_other_exception_passes_as_it_is(house):
    house.faults["search"] = fault(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        house.run()
    assert house.states()["search"] == "failed"


def test_only_one_stage_can_be_asked_for(house):
    assert house.run(only=["search"]) == ["search"]
    assert house.run() == ["baseline", *ORDER[2:]]


def test_fresh_runs_everything_again(house):
    house.run()
    assert house.run(fresh=True) == ORDER


def test_the_real_table_has_the_documented_order():
    flags = {"model": "resnet20", "dataset": "digits", "flops": "0.5"}
    table = stages.table(loading.from_flags(flags, ["baseline=true"]))
    assert [stage.name for stage in table] == ORDER
    assert [stage.name for stage in stages.table(loading.from_flags(flags))] == ORDER[1:]
    for stage in table:
        assert set(stage.inputs) <= set(ORDER[: ORDER.index(stage.name)])


def test_a_full_disk_is_told_once_and_the_run_goes_on_later(house, monkeypatch):
    """The record of the stage cannot be written then either."""
    house.faults["finetune"] = fault(DiskFullError("no space left for checkpoint.safetensors"))

    def full(self, stage, *_):
        raise DiskFullError("no space left for manifest.json")

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "fail", full)
        with pytest.raises(DiskFullError, match="checkpoint") as caught:
            house.run()
    assert caught.value.exit_code == 1
    assert house.states()["finetune"] == "running"
    assert house.run() == ["finetune", "slim", "export", "bench", "report"]
