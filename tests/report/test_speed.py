"""A speed-up that cannot be believed has no tick, and its reasons, on every page alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.report.collect import RunData

BUSY = {"others": 0.61, "waited": 0.3, "stolen": 0.0}
CALM = {"others": 0.02, "waited": 0.001, "stolen": 0.0}
# Of a network with 20.45 of 41 MFLOPs: the row at batch 1, and what must be said of it.
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "wide": (
        {"speedup_vs_target": 1.4, "ratio_low": 1.1, "ratio_high": 1.9, "median_ms": 0.886},
        "about 1.4x",
        "measures 1.40x (1.10 to 1.90): its interval is wide.",
    ),
    "busy": (
        {"disturbance": BUSY},
        "1.46x",
        "measures 1.46x (1.41 to 1.52): the machine was busy.",
    ),
    "more than the FLOPs": (
        {"speedup_vs_target": 2.5, "ratio_low": 2.4, "ratio_high": 2.6, "median_ms": 0.4965},
        "2.50x",
        "measures 2.50x (2.40 to 2.60): it is more than the 2.00x that the FLOPs explain.",
    ),
    "another quotient": (
        {"median_ms": 1.0},
        "1.46x",
        "measures 1.46x (1.41 to 1.52): the median times alone would give 1.24x.",
    ),
    "all of it": (
        {"speedup_vs_target": 5.38, "ratio_low": 1.31, "ratio_high": 7.27, "disturbance": BUSY},
        "about 5x",
        "measures 5.38x (1.31 to 7.27): its interval is wide, the machine was busy, it is more than "
        "the 2.00x that the FLOPs explain, the median times alone would give 1.46x.",
    ),
}


def rewritten(run: Path, contents: dict[str, Any], changes: dict[str, Any]) -> RunData:
    """The run with batch 1 alone, and other figures there."""
    document = contents["bench/bench.json"]
    target, slim = document["rows"][:2]
    rows = [target | {"disturbance": CALM}, slim | {"disturbance": CALM} | changes]
    (run / "bench/bench.json").write_text(json.dumps(document | {"rows": rows}))
    found = report.read(run)
    assert isinstance(found, RunData)
    return found


def test_a_believable_gain_has_a_tick(finished: Path, contents: dict[str, Any]) -> None:
    data = rewritten(finished, contents, {})
    assert "- \N{CHECK MARK} **Speed, fp32: 1.46x.** Faster: 1.46x at batch 1 on cpu" in report.markdown(data)
    assert 'rect class="gain"' in report.html(data)
    assert not [note for note in data.summary.notes if "uncertain" in note]


@pytest.mark.parametrize("name", CASES)
def test_one_in_doubt_has_none_and_its_reasons_are_told_everywhere(
    finished: Path, contents: dict[str, Any], name: str
) -> None:
    changes, figure, reason = CASES[name]
    data = rewritten(finished, contents, changes)
    told = f"How much faster is uncertain: model.onnx at batch 1 on cpu {reason}"
    assert told in data.summary.notes  # which the terminal prints
    [row] = [row for row in report.table(data.summary) if row.label.startswith("Latency")]
    assert row.change == f"{figure} (uncertain)"
    text, page = report.markdown(data), report.html(data)
    assert f"- ! **Speed, fp32: {figure}, uncertain.** {figure[0].upper()}{figure[1:]} at batch 1 (" in text
    assert told in text
    assert f'<p class="figure warn">{figure}, uncertain</p>' in page
    assert 'rect class="gain"' not in page
    assert f"{figure} (uncertain)" in page
    assert re.search(r'<td class="whole">uncertain</td>', page)


def test_a_headline_has_the_interval_and_the_reasons(finished: Path, contents: dict[str, Any]) -> None:
    data = rewritten(finished, contents, CASES["all of it"][0])
    [one] = [found for found in data.findings if found.fact == "Speed, fp32"]
    assert (one.state, one.figure) == ("warn", "about 5x, uncertain")
    assert one.sentence == (
        "About 5x at batch 1 (between 1.31x and 7.27x, the machine was busy, it is "
        "more than the 2.00x that the FLOPs explain, the median times alone would give 1.46x) on cpu, beside "
        "the target network in onnxruntime; the FLOPs alone would suggest 2.00x."
    )


def test_a_busy_machine_is_said_in_every_report(finished: Path, contents: dict[str, Any]) -> None:
    data = rewritten(finished, contents, {"disturbance": BUSY})
    told = (
        "The machine was busy while latencies were measured (cpu, batch 1): other programs took 61 % of the "
        "processor, the measured threads waited 30 % of their time for a core."
    )
    assert told in data.summary.notes
    assert told in report.markdown(data)
    assert told.replace(" %", "\N{NO-BREAK SPACE}%") in report.html(data).replace("&#39;", "'").replace(
        "batch\N{NO-BREAK SPACE}1", "batch 1"
    )


def test_what_holds_of_all_batch_sizes_is_said_once(finished: Path, contents: dict[str, Any]) -> None:
    document = contents["bench/bench.json"]
    none = {"verdict": "no gain", "speedup_vs_target": 1.02, "ratio_low": 1.01, "ratio_high": 1.03}
    document["rows"] = [
        row
        | {"disturbance": BUSY | {"waited": waited}, "median_ms": 1.0}
        | ({} if row["verdict"] == "target" else none)
        for row, waited in zip(document["rows"], (0.3, 0.3, 0.4, 0.4), strict=True)
    ]
    (finished / "bench/bench.json").write_text(json.dumps(document))
    data = report.read(finished)
    [speed] = [one.sentence for one in data.findings if one.fact == "Speed, fp32"]
    assert speed.startswith("Unclear: 1.02x at batch 1 and 1.02x at batch 8 on cpu (no gain, ")
    assert speed.count("the machine was busy") == 1
    assert [note for note in data.summary.notes if "No gain" in note or "busy while" in note] == [
        "No gain in speed: model.onnx on cpu measures 1.02x (1.01 to 1.03) at batch 1, 1.02x (1.01 to 1.03) "
        "at batch 8; up to 1.05x counts as none; the figures are uncertain: the machine was busy.",
        "The machine was busy while latencies were measured (cpu, batch 1; cpu, batch 8): other programs "
        "took up to 61 % of the processor, the measured threads waited up to 40 % of their time for a core.",
    ]


def test_it_is_not_guessed_that_a_machine_was_busy_which_was(
    finished: Path, contents: dict[str, Any]
) -> None:
    unsettled = "Latencies had not settled before the measuring (cpu, batch 1)"
    for others, end in ((CALM, ": the machine may have been busy."), (BUSY, ".")):
        data = rewritten(finished, contents, {"steady": False, "disturbance": others})
        assert f"{unsettled}{end}" in data.summary.notes


def test_no_gain_that_is_just_one_says_where_gains_begin(finished: Path, contents: dict[str, Any]) -> None:
    changes = {"speedup_vs_target": 1.049, "ratio_low": 1.03, "ratio_high": 1.06, "median_ms": 1.183}
    data = rewritten(finished, contents, changes | {"verdict": "no gain"})
    assert (
        "No gain in speed: model.onnx at batch 1 on cpu measures 1.05x (1.03 to 1.06); up to 1.05x counts as "
        "none."
    ) in data.summary.notes


def test_no_gain_on_a_busy_machine_is_no_verdict(finished: Path, contents: dict[str, Any]) -> None:
    changes = {"speedup_vs_target": 0.9, "ratio_low": 0.88, "ratio_high": 0.92, "median_ms": 1.38}
    for others, state in ((CALM, "bad"), (BUSY, "warn")):
        data = rewritten(finished, contents, changes | {"verdict": "no gain", "disturbance": others})
        assert [one.state for one in data.findings if one.fact == "Speed, fp32"] == [state]


@pytest.mark.parametrize(
    ("gpus", "told"), [([], False), ([{"name": "Example GPU", "driver": "600.1"}], True)]
)
def test_cuda_is_missed_only_where_there_is_a_gpu(
    finished: Path, contents: dict[str, Any], gpus: list[dict[str, str]], told: bool
) -> None:
    environment = contents["bench/environment.json"] | {"gpus": gpus}
    (finished / "bench/environment.json").write_text(json.dumps(environment))
    notes = report.read(finished).summary.notes
    assert ("CUDA was not measured: no NVIDIA driver was found." in notes) is told
