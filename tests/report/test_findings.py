"""Findings: what is said of a run, whether it is called good, and that no doubt is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.report.findings import Finding, Wanted, findings, notes, sweep_findings
from jstc.report.tables import table
from jstc.summary import Summary, SweepSummary, parse, to_document


@pytest.fixture
def document(finished: Path) -> dict[str, Any]:
    return to_document(report.summarise(finished))


def parsed(document: dict[str, Any]) -> Summary:
    found = parse(document, name="x")
    assert isinstance(found, Summary)
    return found


def found_in(document: dict[str, Any], **wanted: Any) -> dict[str, Finding]:
    """The findings with a figure, by what they are about."""
    return {one.fact: one for one in findings(parsed(document), Wanted(**wanted)) if one.figure}


def remarks(document: dict[str, Any]) -> dict[str, Finding]:
    """The findings without a figure, by what they are about."""
    return {one.fact: one for one in findings(parsed(document), Wanted()) if not one.figure}


def test_how_images_reach_the_network(finished: Path) -> None:
    path = finished / "target.json"
    sentence = "the network gets 32x32 pixels (the data set's own size)"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"input": {"sentence": sentence}}))
    summary = report.summarise(finished)
    assert summary.input.sentence == sentence
    told = [one.sentence for one in findings(summary, Wanted())]
    assert f"Images: {sentence}." in told


def test_a_finished_run_in_figures(document: dict[str, Any]) -> None:
    found = found_in(document, baseline=True)
    assert {fact: (one.state, one.figure) for fact, one in found.items()} == {
        "FLOPs": ("neutral", "20.4 M"),
        "Parameters": ("neutral", "132 k"),
        "Accuracy": ("neutral", "99.33 %"),
        "Budget": ("good", "met"),
        "ONNX file": ("neutral", "560 kB"),
        "Parity": ("good", "same"),
        "fp32 file": ("good", "99.33 %"),
        "Speed, fp32": ("warn", "1.02x to 1.46x"),
    }
    assert found["Accuracy"].sentence.startswith("Top-1 on the test split, -0.07 points against the 99.40 %")
    assert found["Budget"].sentence == "99.8 % of 20.5 M FLOPs is used."
    assert found["Speed, fp32"].sentence == (
        "Faster in 1 of 2: 1.46x at batch 1 and 1.02x at batch 8 (no gain) on cpu, beside the target network "
        "in onnxruntime; the FLOPs alone would suggest 2.00x."
    )


@pytest.mark.parametrize(("accuracy", "state"), [(0.9212, "good"), (0.9211, "bad")])
def test_a_file_that_loses_just_what_it_may_has_passed(
    document: dict[str, Any], accuracy: float, state: str
) -> None:
    document["slim"]["accuracy"] = 0.9312  # 100 * (0.9312 - 0.9212) is a little more than 1
    document["onnx"] = [document["onnx"][0] | {"accuracy": accuracy}]
    assert found_in(document, max_accuracy_drop=1.0)["fp32 file"].state == state
    allowed = [one.sentence for one in findings(parsed(document), Wanted(max_accuracy_drop=1.0))]
    assert "The limit of files: 1 point below torch at most (export.max_accuracy_drop)." in allowed


@pytest.mark.parametrize(("limit", "state", "figure"), [(1e-6, "bad", "differs"), (0.02, "good", "same")])
def test_parity_is_judged_by_the_limit_that_its_stage_had(
    document: dict[str, Any], limit: float, state: str, figure: str
) -> None:
    document["onnx"][0] |= {"max_abs_diff_limit": limit}
    found = found_in(document)["Parity"]
    assert (found.state, found.figure) == (state, figure)
    assert f"({limit:.1e} allowed)" in found.sentence
    del document["onnx"][0]["max_abs_diff_limit"]  # of an older version, whose stage kept only what passed
    found = found_in(document)["Parity"]
    assert (found.state, found.figure) == ("good", "same") and "allowed" not in found.sentence


def test_an_ill_conditioned_network_is_called_so(document: dict[str, Any]) -> None:
    usual = {"error": 2e-6, "largest": 17.3, "ill_conditioned": False, "norm": "bn1"}
    usual |= {"gain": 3000.0, "variance": 1e-7}
    document["slim"]["rounding"] = usual
    assert "Rounding" not in remarks(document)
    document["slim"]["rounding"] = usual | {"error": 0.034, "ill_conditioned": True}
    found = remarks(document)["Rounding"]
    assert (found.state, found.note) == ("warn", True)
    assert found.sentence == (
        "The network is ill-conditioned: rounding in float32 moves logits of up to 17.3 by up to 0.03 "
        "(beside float64), and files and machines may differ by as much. Of its batch norms bn1 magnifies "
        "most: 3e+03 times, with a running variance of 1e-07."
    )


def test_weights_that_see_only_padding_are_told_of(document: dict[str, Any]) -> None:
    few = {
        "weights": 1000,
        "share": 0.008,
        "image_size": [8, 8],
        "layers": ["layer4.0.conv1", "layer4.0.conv2"],
    }
    document["slim"]["unreached"] = few
    assert "Unused weights" not in remarks(document)
    document["slim"]["unreached"] = few | {"weights": 66_000, "share": 0.5}
    found = remarks(document)["Unused weights"]
    assert (found.state, found.note) == ("warn", True)
    assert found.sentence == (
        "At 8x8 pixels 50.2 % of the weights (66.0 k) see only padding and do nothing: kernels wider than "
        "their maps, in 2 layers from layer4.0.conv1 on; a larger input.image_size or a smaller network "
        "would use them."
    )


@pytest.mark.parametrize(("limit", "told"), [(None, True), (1e-3, False), (1e-4, True)])
def test_what_folding_changed_is_judged_by_its_stages_limit(
    document: dict[str, Any], limit: float | None, told: bool
) -> None:
    document["slim"] |= {"max_abs_diff_fold": 5e-4}
    if limit is not None:
        document["slim"]["max_abs_diff_fold_limit"] = limit
    assert ("Folding" in remarks(document)) is told


def test_a_budget_that_is_missed_is_bad_and_noted(document: dict[str, Any]) -> None:
    document["slim"]["flops"] = 21_000_000
    found = found_in(document)["Budget"]
    assert (found.state, found.figure, found.note) == ("bad", "exceeded: 102.4 %", True)
    assert "over its budget: 21,000,000 flops, where 20,500,000" in found.sentence


def test_each_of_several_bounds_is_judged(document: dict[str, Any]) -> None:
    flops, params = ({"metric": "flops", "limit": 20_500_000, "share": 0.5},
                     {"metric": "params", "limit": 90_000, "share": 0.3})  # fmt: skip
    document["budget"] = flops | {"bounds": [flops, params]}
    document["slim"] |= {"flops": 16_400_000, "params": 91_800}
    found = found_in(document)
    assert found["Budget of FLOPs"].sentence == "80.0 % of 20.5 M FLOPs is used."
    missed = found["Budget of parameters"]
    assert (missed.state, missed.figure, missed.note) == ("bad", "exceeded: 102.0 %", True)
    assert "over its budget: 91,800 params, where 90,000" in missed.sentence
    assert "Budget" not in found


def test_a_latency_that_was_only_predicted_is_in_doubt(document: dict[str, Any]) -> None:
    document["budget"] = {"metric": "latency", "limit": 2.0, "share": 0.5}
    document["latency"] = {"predicted_ms": 1.9}
    found = found_in(document)["Latency budget"]
    assert (found.state, found.figure) == ("warn", "met as predicted")
    assert (
        found.sentence
        == "1.90 ms predicted; 2.00 ms allowed: 95.0 % of it is used. It has not been measured."
    )


@pytest.mark.parametrize("limit", [0.5, 5.0])
def test_a_latency_that_bench_finds_over_the_budget_is_told(document: dict[str, Any], limit: float) -> None:
    target, slim = document["bench"][:2]
    place = {"provider": slim["provider"], "batch": slim["batch"]}
    assert 0.5 * 1.05 < slim["median_ms"] < 5
    document["budget"] = {"metric": "latency", "limit": limit, "share": 0.5}
    document["latency"] = {"predicted_ms": 0.48, "measured_ms": 0.49, "target_ms": 1.0, **place}
    found = found_in(document)
    assert (found["Latency budget"].state, found["Latency budget"].figure) == ("good", "met")
    if limit == 5:
        assert "Latency in bench" not in found
        return
    told = found["Latency in bench"]
    assert (told.state, told.note) == ("warn", True)
    assert told.sentence.startswith(f"bench measured {slim['median_ms']:.3f} ms, ")
    assert f"target network took {target['median_ms']:.3g} ms beside it, and 1.00 ms when" in told.sentence


@pytest.mark.parametrize(
    ("verdicts", "state", "word"),
    [
        (("gain", "gain"), "good", "Faster: "),
        (("gain", "unclear"), "warn", "Faster in 1 of 2: "),
        (("unclear", "no gain"), "warn", "Unclear: "),
        (("no gain", "no gain"), "bad", "Not faster: "),
    ],
)
def test_no_doubt_about_speed_is_left_out(
    document: dict[str, Any], verdicts: tuple[str, str], state: str, word: str
) -> None:
    document["bench"][1]["verdict"], document["bench"][3]["verdict"] = verdicts
    found = found_in(document)["Speed, fp32"]
    assert (found.state, found.figure) == (state, "1.02x to 1.46x")
    assert found.sentence.startswith(word)
    assert found.sentence.count("within the noise") == verdicts.count("unclear")
    assert found.sentence.count("no gain") == len({"no gain"} & {*verdicts})  # what holds of all is said once
    told = notes(findings(parsed(document), Wanted()))
    assert sum("measures" in note for note in told) == len(set(verdicts) - {"gain"})


def test_a_stage_that_failed_is_worse_than_one_that_has_not_run(document: dict[str, Any]) -> None:
    document |= {"bench": [], "onnx": []}
    found = findings(parsed(document), Wanted(states={"bench": "failed"}))
    states = {one.sentence.split()[0]: one.state for one in found if one.fact == "Stages"}
    assert states == {"export": "warn", "bench": "bad"}


def test_without_the_target_no_other_file_stands_in_its_place(document: dict[str, Any]) -> None:
    row = {"file": document["onnx"][0]["file"], "provider": "cpu", "batch": 1, "verdict": "no target"}
    document["bench"] = [row | {"median_ms": 1.0, "p95_ms": 1.0, "speedup_vs_target": 1.0, "bytes": 560_000}]
    summary = parsed(document)
    assert summary.target_rows == summary.compared_rows == []
    assert summary.target_bytes is None
    assert {line.label: line.change for line in table(summary)}["ONNX file"] == "-"
    found = found_in(document)
    assert found["ONNX file"].sentence == "The fp32 file."
    assert "Speed, fp32" not in found


def test_every_budget_of_several_is_judged(document: dict[str, Any]) -> None:
    own = {key: document[key] for key in ("budget", "slim", "onnx", "bench")}
    over = own | {"slim": own["slim"] | {"flops": 21_000_000}}
    slow = own | {
        "bench": [row | {"verdict": row["verdict"].replace("gain", "unclear")} for row in own["bench"]]
    }
    wide = own | {"bench": [row | {"ratio_high": 2 * row["ratio_high"]} for row in own["bench"]]}
    rows = {"a": own, "b": over, "c": slow, "d": own | {"slim": {}}, "e": wide}
    sweep = document | {"sweep": [{"label": label, **row} for label, row in rows.items()]}
    summary = parse(sweep, name="x")
    assert isinstance(summary, SweepSummary)
    found = {one.fact: one for one in sweep_findings(summary)}
    assert {label: (found[label].state, found[label].figure) for label in rows} == {
        "a": ("good", "met"),
        "b": ("bad", "exceeded"),
        "c": ("warn", "met, not faster"),
        "d": ("neutral", "not known"),
        "e": ("warn", "met, speed uncertain"),
    }
    assert "; about 1.5x cpu, batch 1 (uncertain); " in found["e"].sentence
    assert found["a"].sentence == (
        "99.8 % of the budget; 99.33 % top-1 (-0.07 points); 20.4 M of 41.0 M FLOPs; "
        "1.46x cpu, batch 1; 1.02x cpu, batch 8 (no gain)."
    )
    assert found["Target network"].figure == "99.40 %"


def test_terminal_markdown_and_page_say_the_same(finished: Path) -> None:
    data = report.read(finished)
    assert data.summary.notes == notes(data.findings)
    text, page = report.markdown(data), report.html(data)
    for one in data.findings:
        assert one.sentence in text, one
    assert page.count('class="mark ') == len(data.findings)


def test_a_summary_is_written_as_it_came(finished: Path) -> None:
    report.write(finished)
    text = (finished / "summary.json").read_text()
    document = json.loads(text)
    document["later"] = {"keys": [1, 2.5]}
    document["bench"][0]["colour"] = "blue"
    written = to_document(parse(document, name="x"))
    assert json.dumps(written) == json.dumps(document)
