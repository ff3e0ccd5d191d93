"""One stage of a run by itself: what it needs runs first, what cannot run is refused."""

from __future__ import annotations

import pytest

from jstc.errors import ModelError, RunDirectoryError, StageError
from jstc.runs import chain, preflight
from jstc.runs.stopwatch import Stopwatch


def fault(error):
    def fail():
        raise error

    return fail


def test_stages_one_by_one(house):
    house.run(only=["search"])
    assert house.stage("finetune") == ["finetune"]
    assert house.stage("slim") == ["slim"]
    assert house.stage("slim") == []


def test_a_fresh_stage_makes_the_later_ones_pending(house):
    house.run()
    assert house.stage("slim", fresh=True) == ["slim"]
    assert house.states()["export"] == house.states()["report"] == "pending"
    assert not (house.path / "export").exists()
    assert house.states()["baseline"] == "done"


def test_a_fresh_stage_forgets_what_a_failure_left(house):
    house.run(only=["search"])
    house.faults["finetune"] = fault(StageError("no"))
    with pytest.raises(StageError):
        house.stage("finetune")
    (house.path / "finetune" / "checkpoint").write_text("x")
    assert house.stage("finetune", fresh=True) == ["finetune"]
    assert not (house.path / "finetune" / "checkpoint").exists()


def test_a_search_that_is_missing_or_unfinished_is_refused_with_its_command(house):
    house.faults["baseline"] = fault(StageError("no"))
    with pytest.raises(StageError):
        house.run(only=["baseline"])
    for name in ("finetune", "slim", "export", "bench"):
        with pytest.raises(
            RunDirectoryError,
            match=f"^{name} needs the search first, which is pending: continue with `jstc run x.yaml`$",
        ):
            house.stage(name)
    house.faults["search"] = fault(StageError("no"))
    with pytest.raises(StageError):
        house.run(only=["search"])
    with pytest.raises(RunDirectoryError, match=r"slim needs the search first, which is failed: .*x.yaml`$"):
        house.stage("slim")
    assert house.ran == []
    assert house.messages.texts == []


def test_the_stages_that_are_missing_run_first_and_are_announced(house):
    house.run(only=["search"])
    assert house.stage("export") == ["finetune", "slim", "export"]
    assert house.messages.texts == [
        "finetune has not run yet: running it first",
        "slim has not run yet: running it first",
    ]
    assert house.states()["baseline"] == house.states()["bench"] == "pending"
    assert house.stage("export") == []
    assert len(house.messages.texts) == 2


def test_a_stage_is_announced_before_it_starts(house):
    house.run(only=["search"])
    house.faults["finetune"] = fault(StageError("no"))
    with pytest.raises(StageError):
        house.stage("slim")
    assert house.messages.texts == ["finetune has not run yet: running it first"]
    assert house.stage("slim") == ["finetune", "slim"]
    assert house.messages.texts[1:] == ["finetune is unfinished: continuing it first"]


def test_the_baseline_is_trained_for_the_bench_and_for_nothing_before_it(house):
    house.run(only=["search"])
    for name in ("finetune", "slim", "export"):
        assert house.stage(name) == [name]
    assert house.messages.texts == []
    assert house.stage("bench") == ["baseline", "bench"]
    assert house.messages.texts == ["baseline has not run yet: running it first"]


def test_what_a_missing_stage_reads_must_be_intact_too(house):
    house.run(only=["search"])
    house.stage("finetune")
    (house.path / "finetune" / "work").write_text("other")
    with pytest.raises(RunDirectoryError, match=r"finetune/work .* changed: run `jstc finetune .* --fresh`$"):
        house.stage("export")
    assert house.ran == []


@pytest.mark.parametrize(
    ("damaged", "stage", "way_out"),
    [("search", "finetune", "continue with `jstc run x.yaml`"), ("baseline", "bench", "run `jstc run ")],
)
def test_a_damaged_stage_without_a_command_of_its_own_names_what_makes_it_again(
    house, damaged, stage, way_out
):
    house.run()
    (house.path / damaged / "work").unlink()
    with pytest.raises(RunDirectoryError, match=f"{damaged}/work .* is missing or changed: {way_out}"):
        house.stage(stage, fresh=True)


def test_what_is_wrong_is_found_before_a_missing_stage_runs(house, monkeypatch):
    house.run(only=["search"])
    monkeypatch.setattr(preflight, "check", lambda workspace, path: fault(RunDirectoryError("full"))())
    with pytest.raises(RunDirectoryError, match="full"):
        house.stage("export")
    assert house.ran == []


def test_a_damaged_input_of_a_stage_is_refused(house):
    house.run()
    (house.path / "finetune" / "work").write_text("other")
    with pytest.raises(RunDirectoryError, match=r"finetune/work .* missing or changed: run `jstc finetune"):
        house.stage("slim", fresh=True)
    assert house.states()["slim"] == "done"


def test_nothing_is_deleted_before_the_input_was_found_right(house, monkeypatch):
    house.run()

    def refused(workspace, path):
        raise ModelError("no")

    monkeypatch.setattr(preflight, "check", refused)
    with pytest.raises(ModelError):
        house.stage("finetune", fresh=True)
    assert (house.path / "finetune" / "work").exists() and house.states()["finetune"] == "done"


def test_each_stage_knows_which_are_to_come(house, monkeypatch):
    seen = {}

    def watch(run, stage, progress, *, workspace, to_come):
        assert workspace is not None
        seen[stage] = list(to_come)
        return Stopwatch(run, stage, progress, workspace=workspace, to_come=to_come)

    monkeypatch.setattr(chain, "Stopwatch", watch)
    house.run(only=["search"])
    assert seen == {"search": []}
    seen.clear()
    house.stage("export")
    assert seen == {"finetune": ["slim", "export"], "slim": ["export"], "export": []}
    seen.clear()
    house.run()
    assert seen == {"baseline": ["bench", "report"], "bench": ["report"], "report": []}
