"""Pictures are files of the report stage like any others: on record, and made again when they are damaged."""

from __future__ import annotations

import json

import pytest

from jstc.core import files
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs import commands
from jstc.runs.directory import RunDirectory

RECIPE = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5"})
STAGES = ["search", "finetune", "slim", "export", "bench", "report"]
PICTURE = "report/widths.svg"


@pytest.fixture
def run(tmp_path):
    """A run whose stages are done, up to the report."""
    path = tmp_path / "r"
    with RunDirectory.open(path, RECIPE, stages=STAGES, command="jstc run x") as opened:
        groups = [{"name": "g", "width": 2, "flops_share": 0.5}]
        files.write_json(path / "target.json", {"flops": 2, "params": 2, "groups": groups})
        Plan({"g": (0,)}, {"g": 2}).save(path / "slim" / "plan.json")
        for stage in STAGES[:-1]:
            files.write_json(path / stage / "result.json", {})
            opened.finish(stage, [path / stage / "result.json"])
    return path


def test_pictures_are_on_record(run):
    commands.write_report(run)
    artifacts = json.loads((run / "manifest.json").read_text())["stages"]["report"]["artifacts"]
    assert {"report.html", "report.md", "summary.json", "report/pictures.json", PICTURE} == set(artifacts)
    assert f"]({PICTURE})" in (run / "report.md").read_text()
    assert [entry["file"] for entry in files.read_json(run / "summary.json")["pictures"]] == [PICTURE]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_picture_is_drawn_again(run, damage):
    commands.write_report(run)
    drawn = (run / PICTURE).read_bytes()
    (run / "report" / "left-over.svg").write_text("of an older report")
    if damage == "missing":
        (run / PICTURE).unlink()
    else:
        (run / PICTURE).write_text("<svg/>")
    commands.write_report(run)
    assert (run / PICTURE).read_bytes() == drawn
    assert not (run / "report" / "left-over.svg").exists()


def test_a_fresh_start_deletes_them(run):
    commands.write_report(run)
    with RunDirectory.open(run, RECIPE, stages=STAGES, command="jstc run x", fresh=True):
        assert not (run / "report").exists()


def test_a_report_of_an_older_time_gets_what_it_lacks(run):
    commands.write_report(run)
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"]["report"]["artifacts"]["report.html"]
    files.write_json(run / "manifest.json", manifest)
    commands.write_report(run)
    assert (run / "report.html").read_bytes() == page
