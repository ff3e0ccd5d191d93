"""The run directory: whose it is, who may write, what is on record, and what is never deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jstc
from jstc.errors import RunDirectoryError
from jstc.recipe import loading
from jstc.runs.directory import RunDirectory, default_path, newest_run, read_recipe

STAGES = ("search", "slim", "report")


def recipe(**flags):
    return loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5", **flags})


def opened(path, *, fresh=False, **flags):
    return RunDirectory.open(path, recipe(**flags), stages=STAGES, command="jstc run x.yaml", fresh=fresh)


def write(run: RunDirectory, name: str, text: str = "text") -> Path:
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_new_run_has_its_recipe_and_its_manifest(tmp_path):
    with opened(tmp_path / "a" / "b", seed=3) as run:
        manifest = json.loads((run.path / "manifest.json").read_text())
        assert read_recipe(run.path) == recipe(seed=3)
    assert manifest["schema"] == 1
    assert (manifest["seed"], manifest["command"]) == (3, "jstc run x.yaml")
    assert manifest["stages"]["slim"] == {"state": "pending", "seconds": 0.0, "artifacts": {}}
    assert {"python", "torch"} <= set(manifest["versions"])


def test_states_seconds_and_artifacts_survive(tmp_path):
    with opened(tmp_path) as run:
        run.begin("search")
        run.spend("search", 1.5)
        run.spend("search", 0.5)
        run.finish("search", [write(run, "search/plan.json")])
        run.fail("slim")
    with opened(tmp_path) as run:
        assert run.is_done("search")
        assert run.record("search").seconds == 2.0
        assert run.record("slim").state == "failed"
        assert run.damaged("search") == []


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_text("other")], ids=["gone", "changed"]
)
def test_a_damaged_artifact_is_found(tmp_path, harm):
    with opened(tmp_path) as run:
        artifact = write(run, "search/plan.json")
        run.finish("search", [artifact])
        harm(artifact)
        assert run.damaged("search") == ["search/plan.json"]


def test_reset_deletes_what_the_stage_wrote_and_nothing_else(tmp_path):
    with opened(tmp_path) as run:
        run.finish("search", [write(run, "search/plan.json")])
        run.finish("report", [write(run, "summary.json")])
        notes = write(run, "notes.txt")
        run.reset("report")
        assert not (tmp_path / "summary.json").exists()
        run.reset("search")
        assert not (tmp_path / "search").exists()
        assert notes.exists()
        assert run.record("search").state == "pending"


def test_fresh_deletes_the_run_and_keeps_the_users_files(tmp_path):
    with opened(tmp_path) as run:
        run.finish("search", [write(run, "search/plan.json")])
        write(run, "summary.json")
        notes = write(run, "notes.txt")
    with opened(tmp_path, fresh=True, seed=9) as run:
        assert not run.is_done("search")
        assert run.recipe.seed == 9
    assert notes.exists()
    assert not (tmp_path / "search").exists()
    assert not (tmp_path / "summary.json").exists()


def test_fresh_forgets_images_that_could_not_be_read(tmp_path):
    names = ("corrupt.jsonl", "corrupt-1.jsonl")
    with opened(tmp_path) as run:
        lists = [write(run, name) for name in names]
    with opened(tmp_path):
        assert all(path.exists() for path in lists)
    with opened(tmp_path, fresh=True):
        assert not any(path.exists() for path in lists)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["search", "search/history.jsonl", "recipe.yaml.bak", "notes/a/b"])
def test_a_run_with_links_out_of_the_directory_is_neither_gone_on_with_nor_begun_anew(tmp_path, name, fresh):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / ".tmp-mine").write_text("x")
    with opened(tmp_path / "run") as run:
        run.finish("slim", [write(run, "slim/plan.json")])
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).symlink_to(outside)
    refused = pytest.raises(RunDirectoryError, match="leads out of the run directory")
    with refused, opened(tmp_path / "run", fresh=fresh):
        pass
    assert (outside / ".tmp-mine").exists()
    assert (tmp_path / "run" / "slim" / "plan.json").exists()
    (tmp_path / "run" / name).unlink()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run" / "inside").symlink_to("recipe.yaml")
    with opened(tmp_path / "link") as run:
        assert run.path == tmp_path / "link"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_lock_that_is_a_link_empties_no_other_file(tmp_path, fresh):
    (tmp_path / "precious").write_text("x")
    with opened(tmp_path / "run"):
        pass
    (tmp_path / "run" / ".lock").unlink(missing_ok=True)
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunDirectoryError, match="is a link"), opened(tmp_path / "run", fresh=fresh):
        pass
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_lock_that_is_a_link_empties_no_file_of_the_run_either(tmp_path, fresh):
    with opened(tmp_path):
        pass
    (tmp_path / ".lock").unlink(missing_ok=True)
    (tmp_path / ".lock").symlink_to("recipe.yaml")
    with pytest.raises(RunDirectoryError, match="is a link"), opened(tmp_path, fresh=fresh):
        pass
    assert read_recipe(tmp_path) == recipe()


def test_links_in_a_circle_lead_nowhere(tmp_path):
    with opened(tmp_path) as run:
        (run.path / "a").symlink_to("b")
        (run.path / "b").symlink_to("a")
    with pytest.raises(RunDirectoryError, match="leads out"), opened(tmp_path):
        pass


@pytest.mark.parametrize("fresh", [False, True])
def test_a_pipe_in_a_run_is_named(tmp_path, fresh):
    with opened(tmp_path) as run:
        os.mkfifo(write(run, "search/plan.json").with_name("history.jsonl"))
    with pytest.raises(RunDirectoryError, match=r"history.jsonl is a pipe"), opened(tmp_path, fresh=fresh):
        pass
    assert (tmp_path / "search" / "plan.json").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_leftovers_are_deleted_where_jstc_writes_and_nowhere_else(tmp_path, fresh):
    ours = [".tmp-a", "search/.tmp-b.json", "search/flops0.5/.tmp-c", "tensorboard/search/.tmp-d"]
    others = ["notes/.tmp-mine", "slim/run/.tmp-e", "search/.tmp-folder/x"]
    with opened(tmp_path) as run:
        for name in [*ours, *others, "slim/run/manifest.json"]:
            (run.path / name).parent.mkdir(parents=True, exist_ok=True)
            (run.path / name).write_text("x")
    with opened(tmp_path, fresh=fresh):
        pass
    assert [name for name in ours if (tmp_path / name).exists()] == []
    kept = others[:1] if fresh else others
    assert [name for name in others if (tmp_path / name).exists()] == kept


def test_what_a_record_names_outside_of_its_stage_is_not_deleted(tmp_path):
    with opened(tmp_path) as run:
        notes, plan = write(run, "notes.txt"), write(run, "search/plan.json")
        run.finish("slim", [write(run, "slim/x"), notes, plan, run.path / "recipe.yaml"])
        run.reset("slim")
        assert notes.exists() and plan.exists() and (run.path / "recipe.yaml").exists()
        assert not (run.path / "slim").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, fresh):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match="not a run directory of jstc"), opened(tmp_path, fresh=fresh):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_manifest_of_somebody_else_is_foreign(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "an extension"}')
    with pytest.raises(RunDirectoryError, match="not a run directory of jstc"), opened(tmp_path, fresh=True):
        pass


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"stages": {"../..": {}}}, {"stages": {"search": {"artifacts": {"../x": "0"}}}},
     {"stages": {"search": {"artifacts": {"/etc/x": "0"}}}}, {"stages": {"search": {"state": "odd"}}}],
)  # fmt: skip
def test_a_damaged_manifest_is_refused_before_anything_is_deleted(tmp_path, change):
    with opened(tmp_path) as run:
        write(run, "search/plan.json")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
    with (
        pytest.raises(RunDirectoryError, match="damaged or of another version"),
        opened(tmp_path, fresh=True),
    ):
        pass
    assert (tmp_path / "search" / "plan.json").exists()


def test_unreadable_json_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="cannot be read"), opened(tmp_path):
        pass


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunDirectoryError, match="is a file"), opened(tmp_path / "run"):
        pass
    with pytest.raises(RunDirectoryError, match="cannot write to"), opened(tmp_path / "run" / "deeper"):
        pass


def test_other_settings_are_refused_with_the_keys_and_the_ways_out(tmp_path):
    with opened(tmp_path):
        pass
    with pytest.raises(RunDirectoryError) as caught, opened(tmp_path, seed=1):
        pass
    message = str(caught.value)
    assert "seed: 0 -> 1" in message
    assert all(way in message for way in ("--fresh", "--out", "old settings"))


def test_a_process_killed_before_its_manifest_leaves_a_usable_directory(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-abc.json").touch()
    with opened(tmp_path) as run:
        assert run.record("search").state == "pending"
    assert not (tmp_path / ".tmp-abc.json").exists()


def test_a_second_opening_is_refused_and_says_who_holds_it(tmp_path):
    refused = pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()} on ")
    with opened(tmp_path), refused, opened(tmp_path):
        pass
    with opened(tmp_path) as run:
        assert run.path == tmp_path


HOLDER = """
import pathlib, sys, time
from jstc.runs.directory import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(jstc.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RunDirectoryError, match=f"process {process.pid} on "), opened(tmp_path):
            pass
        process.kill()
    with opened(tmp_path) as run:
        assert run.path == tmp_path


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "resnet20-digits-flops0.5"),
        ({"seed": 2}, "resnet20-digits-flops0.5-seed2"),
        ({"flops": "500M"}, "resnet20-digits-flops500M"),
        ({"flops": "0.35,0.7,20M"}, "resnet20-digits-flops20M-0.7-0.35"),
        ({"flops": None, "params": "30%"}, "resnet20-digits-params0.3"),
        ({"model": "../my nets/net.py:make"}, "my-nets-net.py-make-digits-flops0.5"),
        ({"model": "timm:a/b"}, "timm-a-b-digits-flops0.5"),
    ],
)
def test_default_names_are_stable_and_safe(flags, name):
    assert default_path(recipe(**flags)) == Path("runs") / name


def test_the_newest_run_is_the_one_worked_on_last(tmp_path):
    for name in ("a", "b"):
        with opened(tmp_path / name):
            pass
    (tmp_path / "c").mkdir()
    later = time.time_ns() + 10**9
    os.utime(tmp_path / "a" / "manifest.json", ns=(later, later))
    assert newest_run(tmp_path, say=pytest.fail) == tmp_path / "a"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text(path.read_text().replace('"schema": 1', '"schema": 2')),
        lambda path: path.write_text("{"),
        lambda path: path.write_text('{"kind": "jstc run"}'),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["version", "damaged", "half", "device", "pipe", "folder"],
)
def test_a_record_that_cannot_be_read_stops_no_other_run(tmp_path, spoil):
    for name in ("a", "z"):
        with opened(tmp_path / name):
            pass
    spoil(tmp_path / "z" / "manifest.json")
    said = []
    assert newest_run(tmp_path, say=said.append) == tmp_path / "a"
    [text] = said
    assert text.startswith(f"{tmp_path / 'z'} is left out: ")
    with pytest.raises(RunDirectoryError), opened(tmp_path / "z"):
        pass


@pytest.mark.parametrize(
    ("name", "meant"),
    [("runs/digts", "runs/digits"), ("digits", "runs/digits"), ("other/smal", "other/small"), ("zzz", None)],
)
def test_a_run_that_is_not_there_has_near_ones(tmp_path, monkeypatch, name, meant):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/digits", "runs/imagenet", "other/small"):
        with opened(Path(folder)):
            pass
    with pytest.raises(RunDirectoryError) as caught:
        read_recipe(Path(name))
    expected = f"no run directory at {name}" + (f"; did you mean {meant}?" if meant else "")
    assert str(caught.value) == expected


def test_no_run_at_all(tmp_path):
    with pytest.raises(RunDirectoryError, match="no runs under"):
        newest_run(tmp_path / "runs", say=pytest.fail)
    with pytest.raises(RunDirectoryError, match="no run directory at"):
        read_recipe(tmp_path / "runs")
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        read_recipe(tmp_path)
