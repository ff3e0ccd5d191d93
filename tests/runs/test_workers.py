"""Process 0 hands out tasks, the others do them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jstc.core import processes
from jstc.core.progress import Silent
from jstc.errors import RecipeError, StageError
from jstc.models import Permissions
from jstc.recipe.schema import InputSettings
from jstc.runs import preflight, workers
from jstc.runs.workers import EvalTask, as_rank_zero, broadcast_task, worker_loop
from jstc.runs.workspace import StageContext, Workspace
from jstc.train import collectives, process_group


class Store:
    """torchrun's, in memory."""

    def __init__(self):
        self.content = {}

    def set(self, key, value):
        self.content[key] = value

    def get(self, key):
        return self.content[key]

    def check(self, keys):
        return all(key in self.content for key in keys)


@pytest.fixture
def two(monkeypatch):
    """Two processes that share a store; call it with a rank to be that process."""
    store = Store()
    monkeypatch.setattr(process_group, "store", lambda: store)
    monkeypatch.setattr(process_group, "join", lambda where: None)
    monkeypatch.setattr(process_group, "leave", lambda: None)

    def be(rank):
        values = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        for name, value in (values | {"RANK": str(rank), "LOCAL_RANK": str(rank)}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(workers, "_conversation", workers._Conversation())

    be(0)
    return be


def task(limit=None):
    return EvalTask(Path("a.onnx"), "digits", None, InputSettings(), "cpu", 0, limit)


def test_tasks_are_done_in_order_until_the_end(two):
    with as_rank_zero():
        for number in (1, 2):
            with broadcast_task(task(number)):
                assert collectives.world() == 2
        assert collectives.world() == 1
    two(1)
    done = []
    assert worker_loop({}, done.append) == 0
    assert done == [task(1), task(2)]


def test_a_stage_on_all_ranks_is_done_by_each_with_the_same_recipe(two, make_workspace, tmp_path):
    found = []

    @workers.on_all_ranks
    def baseline(context):
        permissions = context.workspace.permissions
        found.append((processes.rank(), context.recipe, context.path, context.folder, permissions))
        return {}

    workspace = make_workspace("train.batch_size=8", "device=cpu")
    workspace.permissions = Permissions(model="resnet20", pickle=True)
    context = StageContext(workspace, tmp_path / "run", tmp_path / "run" / "baseline", Silent())
    with as_rank_zero():
        baseline(context)
    two(1)
    assert worker_loop({"baseline": baseline}, fail) == 0
    assert [rank for rank, *_ in found] == [0, 1]
    passed_on = (context.recipe, context.path, context.folder, workspace.permissions)
    assert found[0][1:] == found[1][1:] == passed_on


def test_what_process_0_says_the_others_do_not_say_again(two):
    with pytest.raises(StageError), as_rank_zero(), broadcast_task(task()):
        raise StageError("diverged")
    two(1)
    assert worker_loop({}, lambda _: fail(StageError("diverged"))) == 1


def test_what_is_wrong_in_one_process_alone_it_says_itself(two, monkeypatch):
    with as_rank_zero(), broadcast_task(task()):
        pass
    two(1)
    monkeypatch.setattr(workers, "_ANSWER_SECONDS", 0.0)
    with pytest.raises(StageError, match=r"process 1 of 2, on .*: no such folder"):
        worker_loop({}, lambda _: fail(StageError("no such folder")))


def test_a_lost_process_is_an_error_with_a_message(two):
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    with pytest.raises(StageError, match="has ended"), broadcast_task(task()):
        raise gone
    with pytest.raises(RuntimeError, match="a bug"), broadcast_task(task()):
        raise RuntimeError("a bug")


def test_a_process_alone_shares_nothing():
    with as_rank_zero(), broadcast_task(task()):
        assert collectives.world() == 1


def test_batches_must_be_shared_evenly(two, make_workspace, tmp_path):
    with pytest.raises(RecipeError, match=r"train.batch_size: 9 images .* by 2 processes; take 8 or 10"):
        preflight.check(make_workspace("train.batch_size=9"), tmp_path / "run")


def test_norms_over_processes_need_gpus(two, make_workspace, tmp_path):
    with pytest.raises(RecipeError, match=r"train.sync_batchnorm"):
        preflight.check(make_workspace("train.sync_batchnorm=true", "device=cpu"), tmp_path / "run")


@pytest.fixture
def make_workspace():
    from jstc.recipe import loading

    flags = {"model": "resnet20", "dataset": "digits", "flops": "0.5"}
    return lambda *settings: Workspace(loading.from_flags(flags, settings))


def test_started_anew_by_torchrun_a_run_goes_on(house, two, monkeypatch):
    monkeypatch.setattr(processes, "leads", lambda: False)
    house.run()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert house.run(fresh=True) == []
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert "search" in house.run(fresh=True)


STUCK = """
import signal, time
from jstc.core import worker
worker.STUCK_SECONDS = {grace}
signal.signal(signal.SIGTERM, lambda *_: None)
with worker.exit_after_signal(lambda: {may_go}):
    signal.raise_signal(signal.SIGTERM)
    time.sleep({work})
print("by itself")
"""


@pytest.mark.parametrize(
    ("grace", "may_go", "work", "code"), [(60, True, 60, 1), (0.2, False, 60, 1), (60, False, 0.1, 0)]
)
def test_a_process_that_is_stuck_is_ended(grace, may_go, work, code):
    program = [sys.executable, "-c", STUCK.format(grace=grace, may_go=may_go, work=work)]
    found = subprocess.run(program, check=False, capture_output=True, timeout=50, text=True)
    assert (found.returncode, found.stdout.strip()) == (code, "" if code else "by itself")
    assert found.stderr == ""  # and not an error, whose exit code is 1 too


def fail(error):
    raise error
