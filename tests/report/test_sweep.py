"""The report of several budgets: figures from their own files, dashes and notes for what is missing."""

from __future__ import annotations

import json
import re

import pytest

from jstc import report
from jstc.errors import RunDirectoryError
from jstc.report.collect import is_sweep
from jstc.report.plots.networks import draw_pareto
from jstc.summary import to_document
from tests.helpers.sweep_run import BUDGETS, HEAD, write_sweep


@pytest.fixture
def sweep(tmp_path, contents):
    """A finished run of two budgets."""
    return write_sweep(tmp_path, contents)


def build(run):
    """The document of summary.json."""
    return to_document(report.summarise(run))


def test_the_summary_has_the_promised_keys(sweep):
    summary = build(sweep)
    assert (summary["schema"], summary["model"], summary["dataset"], summary["seed"]) == (
        1,
        "resnet20",
        "digits",
        3,
    )
    assert summary["budgets"] == BUDGETS
    assert summary["target"] == {
        "flops": 41_000_000, "params": 272_474, "accuracy": 0.994, "accuracy_before": None,
    }  # fmt: skip
    row = summary["sweep"][1]
    assert (row["label"], row["run"]) == ("flops0.5", "flops0.5")
    assert row["budget"] == {"metric": "flops", "limit": 20_500_000, "share": 0.5}
    assert (row["slim"]["flops"], row["slim"]["params"], row["slim"]["accuracy"]) == (
        20_400_000,
        100_000,
        0.98,
    )
    assert row["onnx"][0]["file"] == "flops0.5/model.onnx"
    assert [one["file"] for one in row["bench"][:2]] == ["flops0.5/target", "flops0.5/model.onnx"]


def test_shared_time_is_counted_once(sweep):
    own = 133.0 + 1.5 + 4.2 + 4.4
    assert build(sweep)["seconds"] == {
        "search": 61.4, "baseline": 130.2, "flops0.7": own, "flops0.5": own,
    }  # fmt: skip


def test_the_table_has_a_line_for_the_target_and_for_each_budget(sweep):
    header, rows = report.sweep_table(report.summarise(sweep))
    assert header == ["budget", "FLOPs", "params", "top-1", "change", "batch 1", "batch 8"]
    assert rows == [
        ["target", "41.0 M", "272 k", "99.40 %", "", "1.24 ms", "10.1 ms"],
        ["flops0.7", "20.4 M", "132 k", "99.33 %", "-0.07", "1.46x", "1.02x"],
        ["flops0.5", "20.4 M", "100 k", "98.00 %", "-1.40", "1.46x", "1.02x"],
    ]


def test_the_wide_table_has_sizes_shares_and_doubts(sweep):
    header, rows = report.sweep_table(report.summarise(sweep), wide=True)
    assert header[5] == "ONNX file"
    assert rows[0][5] == "1.09 MB"
    assert rows[2] == [
        "flops0.5", "20.4 M (49.8 %)", "100 k (36.7 %)", "98.00 %", "-1.40 points", "560 kB",
        "1.46x, 0.850 of 1.24 ms", "1.02x (no gain), 9.90 of 10.1 ms",
    ]  # fmt: skip


def test_times_stand_beside_those_of_the_same_measurement(sweep):
    """The target network was slower when the second budget was timed; no quotient contradicts a speed-up."""
    path = sweep / "flops0.5" / "bench" / "bench.json"
    document = json.loads(path.read_text())
    for row, ms in zip(document["rows"][:2], (1.3612, 0.9298), strict=True):
        row["median_ms"] = ms
    path.write_text(json.dumps(document))
    summary = report.summarise(sweep)
    assert [row[5] for row in report.sweep_table(summary)[1]] == ["1.30 ms", "1.46x", "1.46x"]
    assert [row[6] for row in report.sweep_table(summary, wide=True)[1]] == [
        "1.24 to 1.36 ms", "1.46x, 0.850 of 1.24 ms", "1.46x, 0.930 of 1.36 ms",
    ]  # fmt: skip
    page = report.html(report.read(sweep)).replace("\N{NO-BREAK SPACE}", " ")
    for told in ("target 1.24 to 1.36 ms", "0.850 of 1.24 ms", "0.930 of 1.36 ms"):
        assert told in page


def test_what_all_budgets_note_is_said_once(sweep):
    no_gain = "No gain in speed: model.onnx at batch 8 on cpu measures 1.02x (0.97 to 1.06)."
    assert build(sweep)["notes"] == [
        no_gain,
        "flops0.5: model.onnx scores 99.33 %, +1.33 points from torch.",
    ]


@pytest.mark.parametrize(
    ("busy", "told"),
    [
        (
            {"flops0.7": 0.6, "flops0.5": 0.9},
            "The machine was busy while latencies were measured (cpu, batch 1; ",
        ),
        ({"flops0.5": 0.9}, "flops0.5: The machine was busy while latencies were measured (cpu, batch 1; "),
    ],
)
def test_that_the_machine_was_busy_is_said_once_for_all_budgets(sweep, busy, told):
    for label, others in busy.items():
        path = sweep / label / "bench" / "bench.json"
        document = json.loads(path.read_text())
        document["rows"] = [row | {"disturbance": {"others": others}} for row in document["rows"]]
        path.write_text(json.dumps(document))
    found = [note for note in build(sweep)["notes"] if "busy while" in note]
    assert found == [told + "cpu, batch 8): other programs took up to 90 % of the processor."]


def test_the_markdown_tells_the_ends_of_the_range(sweep):
    text = report.markdown(report.read(sweep))
    assert text.startswith("# resnet20 on digits at 2 budgets\n")
    assert "99.33 % top-1 (-0.07 points); 20.4 M of 41.0 M FLOPs; 1.46x cpu, batch 1" in text
    assert "- ✓ **flops0.5: met.** 99.5 % of the budget; 98.00 % top-1 (-1.40 points)" in text
    assert "| flops0.5 | 20.4 M (49.8 %) | 100 k (36.7 %) | 98.00 % | -1.40 points |" in text
    assert "[flops0.5/report.md](flops0.5/report.md)" in text
    assert "pareto" not in text


def test_the_picture_is_shown_when_there_is_one(sweep):
    (sweep / "report").mkdir()
    (sweep / "report" / "pareto.svg").write_text("<svg/>")
    summary = build(sweep)
    assert summary["picture"] == "report/pareto.svg"
    assert "![Accuracy against FLOPs](report/pareto.svg)" in report.markdown(report.read(sweep))


def test_a_picture_of_what_is_gone_goes(sweep):
    (sweep / "report").mkdir()
    (sweep / "report" / "pareto.svg").write_text("<svg/>")
    for place in ("flops0.7/slim", "flops0.5/slim", "baseline"):
        (sweep / place / "result.json").unlink(missing_ok=True)
    report.write(sweep)
    assert not (sweep / "report" / "pareto.svg").exists()
    assert json.loads((sweep / "summary.json").read_text())["picture"] is None


def test_the_points_of_the_picture(sweep):
    (sweep / "flops0.7" / "slim" / "result.json").unlink()
    drawing = draw_pareto(report.summarise(sweep))
    assert drawing.alt == (
        "Accuracy against FLOPs: 98.00 % at 20.4 M FLOPs, target network 99.40 % at 41.0 M"
    )
    (sweep / "baseline" / "result.json").unlink()
    assert draw_pareto(report.summarise(sweep)) is None


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "recipe.yaml").write_text(HEAD + "flops: [0.7, 20M]\n")
    summary = build(tmp_path)
    assert summary["budgets"] == [
        {"label": "flops20M", "metric": "flops", "limit": 20_000_000, "share": None},
        {"label": "flops0.7", "metric": "flops", "limit": None, "share": 0.7},
    ]
    assert summary["notes"] == ["The search has not finished: there is no plan yet for flops20M, flops0.7."]
    assert "There is no slim network yet." in report.markdown(report.read(tmp_path))
    assert report.sweep_table(report.summarise(tmp_path))[1][2] == ["flops0.7", *["-"] * 4]


def test_which_run_has_several_budgets(sweep, tmp_path):
    assert is_sweep(sweep)
    assert not is_sweep(sweep / "flops0.5")
    assert not is_sweep(tmp_path / "none")
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        build(tmp_path / "none")


def test_a_damaged_file_of_a_budget_is_named(sweep):
    (sweep / "flops0.7" / "slim" / "result.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"flops0\.7/slim/result\.json is damaged"):
        build(sweep)


def test_the_page_has_every_budget(sweep):
    text = report.html(report.read(sweep))
    assert re.findall(r'<section id="(\w+)"', text) == [
        "budgets", "notes", "speeds", "widths", "each", "machine", "reproduce",
    ]  # fmt: skip
    for told in (
        "99.33",
        "98.00",
        "flops0.7/report.html",
        "8 of 16",
        "3 of 16",
        'alt="Accuracy against FLOPs: 98.00',
    ):
        assert told in text
    states = dict(re.findall(r'<h3>([^<]+)</h3><p class="figure (\w+)">', text))
    assert states == {"flops0.7": "good", "flops0.5": "good", "Target network": "neutral"}
    assert text.count("<svg") == text.count("</svg>") and "http" not in text and "<script" not in text
    assert text == report.html(report.read(sweep))


def test_the_page_of_a_sweep_that_has_only_begun(sweep):
    for budget in BUDGETS:
        for path in (sweep / budget["label"]).rglob("*.json"):
            path.unlink()
        (sweep / budget["label"] / "recipe.yaml").unlink()
    text = report.html(report.read(sweep))
    assert "There is no slim network yet." in text and "None" not in text
    assert re.findall(r'<section id="(\w+)"', text) == ["budgets", "notes", "each", "reproduce"]


def test_a_budget_of_latency_has_its_time_in_the_list(sweep, contents):
    timed = {"label": "latency2ms", "metric": "latency", "limit": 2.0, "share": 0.5}
    target = {key: value for key, value in contents["target.json"].items() if key != "budget"}
    (sweep / "target.json").write_text(json.dumps(target | {"budgets": [timed]}))
    (sweep / "flops0.5").rename(sweep / "latency2ms")
    assert "- `latency2ms`: 2.00 ms, report in" in report.markdown(report.read(sweep))
    assert "2.00\N{NO-BREAK SPACE}ms, report in" in report.html(report.read(sweep))


def test_budgets_of_several_bounds_show_each_of_them(sweep, contents):
    label = "flops0.5-params0.3"
    flops, params = ({"metric": "flops", "limit": 20_500_000, "share": 0.5},
                     {"metric": "params", "limit": 80_000, "share": 0.3})  # fmt: skip
    both = flops | {"bounds": [flops, params]}
    shared = {key: value for key, value in contents["target.json"].items() if key != "budget"}
    (sweep / "target.json").write_text(json.dumps(shared | {"budgets": [{"label": label} | both]}))
    (sweep / "flops0.5").rename(sweep / label)
    (sweep / label / "target.json").write_text(json.dumps(shared | {"budget": both}))
    text = report.markdown(report.read(sweep))
    assert f"- `{label}`: 20.5 M FLOPs and 80.0 k parameters, report in" in text
    assert f"**{label}: exceeded" in text
    assert "99.5 % of the FLOPs allowed; 125.0 % of the parameters allowed; " in text
    [row] = build(sweep)["sweep"]
    assert row["budget"]["bounds"] == [flops | {"reached": 20_400_000}, params | {"reached": 100_000}]
    (sweep / label / "recipe.yaml").unlink()  # its own run has not begun
    [row] = build(sweep)["sweep"]
    assert row["budget"]["bounds"] == [flops | {"reached": None}, params | {"reached": None}]


def test_images_that_could_not_be_read_are_told_of_once(sweep):
    (sweep / "corrupt.jsonl").write_text('{"image": "a", "reason": "cut off"}\n')
    summary = build(sweep)
    assert summary["unreadable_images"] == 1
    told = [note for note in summary["notes"] if "could not be read" in note]
    assert told == ["Images that could not be read, listed in corrupt.jsonl: 1."]
