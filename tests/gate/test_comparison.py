"""Every kind of regression is found, and nothing is found in what is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from jstc.errors import InputError
from jstc.gate import GateReport, Settings, compare, limits, parse_side
from jstc.gate.gates import Kind

Spoil = Callable[[dict[str, Any]], None]


def compared(base: dict[str, Any], new: dict[str, Any], **settings: Any) -> GateReport:
    return compare(parse_side(base, name="base"), parse_side(new, name="new"), settings=Settings(**settings))


def spoilt(document: dict[str, Any], spoil: Spoil) -> dict[str, Any]:
    document = copy.deepcopy(document)
    spoil(document)
    return document


def put(*path: Any, to: Any) -> Spoil:
    """Sets one figure of a summary."""

    def spoil(document: dict[str, Any]) -> None:
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return spoil


def slower(document: dict[str, Any]) -> None:
    document["bench"][1] |= {"speedup_vs_target": 1.2, "ratio_low": 1.19, "ratio_high": 1.21}


# name: how the new run is worse, the gate that must say so, and the limit that lets it pass
REGRESSIONS: dict[str, tuple[Spoil, tuple[str, str], str]] = {
    "flops": (put("slim", "flops", to=5_300_000), ("flops", "slim"), "5%"),
    "params": (put("slim", "params", to=160_000), ("params", "slim"), "7%"),
    "accuracy in torch": (put("slim", "accuracy", to=0.979), ("accuracy", "slim"), "0.7"),
    "accuracy of a file": (put("onnx", 1, "accuracy", to=0.974), ("accuracy", "int8"), "0.7"),
    "bytes": (put("onnx", 0, "bytes", to=650_000), ("bytes", "fp32"), "7%"),
    "parity of fp32": (put("onnx", 0, "max_abs_diff", to=1e-3), ("max_abs_diff", "fp32"), "100000%"),
    "parity of int8": (put("onnx", 1, "max_abs_diff", to=1.0), ("max_abs_diff", "int8"), "300%"),
    "agreement": (put("onnx", 1, "top1_agreement", to=0.98), ("top1_agreement", "int8"), "1.0"),
    "latency": (slower, ("latency", "fp32, cpu batch 1"), "40%"),
}


def test_a_run_is_as_good_as_itself(document: dict[str, Any]) -> None:
    for _ in range(10):
        found = compared(document, document)
        assert found.verdict == "ok"
    verdicts = {(gate.kind, gate.of): gate.verdict for gate in found.gates}
    assert len(verdicts) == 3 + 2 * 4 + 4
    # Recorded speed-ups are too uncertain to exclude 5 %.
    assert {of for of, verdict in verdicts.items() if verdict != "ok"} == {
        ("latency", f"{of}, cpu batch {batch}") for of in ("fp32", "int8") for batch in (1, 8)
    }
    assert found.notes == ()


@pytest.mark.parametrize("name", REGRESSIONS)
def test_each_regression_is_found_by_its_gate_alone(document: dict[str, Any], name: str) -> None:
    spoil, gate, enough = REGRESSIONS[name]
    found = compared(document, spoilt(document, spoil))
    assert [(failure.kind, failure.of) for failure in found.failures] == [gate]
    kind: Kind = gate[0]  # type: ignore[assignment]
    for limit in (enough, "off"):
        assert compared(document, spoilt(document, spoil), limits=limits({kind: limit})).verdict == "ok"
    # The other way round it is an improvement.
    assert compared(spoilt(document, spoil), document).verdict == "ok"


def test_a_gate_shows_figures_change_and_limit(document: dict[str, Any]) -> None:
    [gate] = compared(document, spoilt(document, put("slim", "params", to=164_980))).failures
    assert (gate.base, gate.new, gate.limit) == (149_982, 164_980, 0.05)
    assert gate.change == pytest.approx(0.1, abs=1e-4)


def test_the_document_has_fractions_and_no_flag_of_our_own(document: dict[str, Any]) -> None:
    less = spoilt(document, put("slim", "accuracy", to=None))
    gates = compared(document, less).to_dict()["gates"]
    assert {type(gate[key]) for gate in gates for key in ("base", "new")} == {float, type(None)}
    assert not [gate for gate in gates if "missing" in gate]


def test_a_drop_that_is_the_limit_passes(document: dict[str, Any]) -> None:
    assert compared(document, spoilt(document, put("slim", "accuracy", to=0.98))).verdict == "ok"
    strict = limits({"accuracy": "0.49"})
    assert compared(document, spoilt(document, put("slim", "accuracy", to=0.98)), limits=strict).failures


def test_flops_within_the_common_budget_are_no_regression(document: dict[str, Any]) -> None:
    within = spoilt(document, put("slim", "flops", to=5_116_736))
    assert compared(document, within).verdict == "ok"
    above = spoilt(document, put("slim", "flops", to=5_116_737))
    assert compared(document, above).failures
    # A limit that was asked for holds, and a budget that was raised is none in common.
    assert compared(document, within, limits=limits({"flops": "0%"})).failures
    assert compared(document, spoilt(within, put("budget", "limit", to=6_000_000))).failures


def test_differences_of_rounding_never_fail(document: dict[str, Any]) -> None:
    assert compared(document, spoilt(document, put("onnx", 0, "max_abs_diff", to=1e-4))).verdict == "ok"
    exact = spoilt(document, put("onnx", 0, "max_abs_diff", to=0.0))
    assert compared(exact, document).verdict == "ok"
    assert compared(exact, spoilt(document, put("onnx", 0, "max_abs_diff", to=0.01))).failures


def test_a_file_that_is_gone_is_one_failure(document: dict[str, Any]) -> None:
    def lose(new: dict[str, Any]) -> None:
        new["onnx"] = new["onnx"][:1]
        new["bench"] = [row for row in new["bench"] if "int8" not in row["file"]]

    less = spoilt(document, lose)
    [gate] = compared(document, less).failures
    assert (gate.kind, gate.of) == ("file", "int8")
    assert gate.reason == "gone: the base has export/model.int8.onnx, the new run does not"
    allowed = compared(document, less, allow_missing=True)
    assert allowed.verdict == "ok"
    assert "not comparable" in {gate.verdict for gate in allowed.gates}
    more = compared(less, document)
    assert more.verdict == "ok"
    assert [gate.of for gate in more.gates if gate.kind == "file"] == ["int8"]


@pytest.mark.parametrize(
    ("spoil", "gate"),
    [
        (put("slim", "accuracy", to=None), ("accuracy", "slim")),
        (put("onnx", 0, "top1_agreement", to=None), ("top1_agreement", "fp32")),
        (lambda new: new["bench"].pop(1), ("latency", "fp32, cpu batch 1")),
    ],
)
def test_a_figure_that_is_gone_is_a_failure(
    document: dict[str, Any], spoil: Spoil, gate: tuple[str, str]
) -> None:
    less = spoilt(document, spoil)
    [failure] = compared(document, less).failures
    assert (failure.kind, failure.of) == gate
    assert "gone" in failure.reason
    assert compared(document, less, allow_missing=True).verdict == "ok"
    assert compared(less, document).verdict == "ok"


def test_a_figure_within_any_common_bound_is_no_regression(document: dict[str, Any]) -> None:
    most = int(1.2 * document["slim"]["params"])
    bounds = [document["budget"], {"metric": "params", "limit": most, "share": 0.5}]
    base = spoilt(document, put("budget", "bounds", to=bounds))
    within = spoilt(base, put("slim", "params", to=most))
    assert compared(base, within).verdict == "ok"
    [gate] = compared(base, spoilt(within, put("slim", "params", to=most + 1))).failures
    assert gate.kind == "params"
    assert compared(base, spoilt(within, put("budget", "bounds", 1, "limit", to=2 * most))).failures
    assert compared(document, within).failures  # the base had no such bound


def test_budgets_are_compared_by_name(sweep: dict[str, Any]) -> None:
    worse = spoilt(sweep, put("sweep", 1, "slim", "accuracy", to=0.9))
    [gate] = compared(sweep, worse).failures
    assert (gate.budget, gate.kind, gate.of) == ("flops0.3", "accuracy", "slim")
    [gone] = compared(sweep, spoilt(sweep, lambda new: new["sweep"].pop())).failures
    assert (gone.kind, gone.of) == ("budget", "flops0.3")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "resnet32"}, "different models: resnet20 in base, resnet32 in new"),
        ({"dataset": "cifar10"}, "different datasets: digits in base, cifar10 in new"),
        ({"target": {"flops": 40_930_000}}, "different target networks: 10,233,472 flops in base"),
    ],
)
def test_other_things_are_not_compared(document: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compared(document, document | change)
    assert compared(document, document | change, allow_different=True).verdict == "ok"


def test_one_budget_and_several_are_not_compared(document: dict[str, Any], sweep: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=r"no budget in common: one budget in base, flops0\.5, flops0\.3 in new"
    ):
        compared(document, sweep)


def test_runs_without_figures_are_not_compared(document: dict[str, Any]) -> None:
    empty = {**document, "slim": {}, "onnx": [], "bench": []}
    with pytest.raises(InputError, match="nothing was compared"):
        compared(empty, empty)
    with pytest.raises(InputError, match="nothing was compared"):
        compared(empty, document)
    assert compared(document, empty).verdict == "fails"


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [(0.8104, []), (0.1, ["a given network of 10.00 %"]), (None, ["no given weights"])],
)
def test_runs_that_did_not_begin_with_the_same_network_are_told(
    document: dict[str, Any], accuracy: float | None, said: list[str]
) -> None:
    base, new = (
        spoilt(document, put("target", "accuracy_before", to=before)) for before in (0.8104, accuracy)
    )
    notes = [note.rpartition(" with ")[2] for note in compared(base, new).notes]
    assert notes == said


def test_given_networks_of_two_runs_are_told_with_their_sampling_errors(document: dict[str, Any]) -> None:
    base, new = (
        spoilt(document | {"given": {"test_images": 599}}, put("target", "accuracy_before", to=before))
        for before in (0.8104, 0.1)
    )
    [note] = [note for note in compared(base, new).notes if "began differently" in note]
    assert "a given network of 81.04 % ±3.3, " in note and note.endswith("a given network of 10.00 % ±2.7")


def test_what_neither_run_has_is_said(document: dict[str, Any]) -> None:
    bare = {**document, "onnx": [], "bench": []}
    notes = compared(bare, bare).notes
    assert [note.split(":")[0] for note in notes] == ["no gate on latency", "no gates on files"]


@pytest.mark.parametrize(
    ("key", "value"), [("cpu", "another CPU"), ("cores", 16), ("packages", {"onnxruntime": "1.20"})]
)
def test_speed_ups_of_other_machines_say_nothing(document: dict[str, Any], key: str, value: Any) -> None:
    moved = spoilt(spoilt(document, slower), put("environment", key, to=value))
    found = compared(document, moved)
    timings = [gate for gate in found.gates if gate.kind == "latency"]
    assert {gate.verdict for gate in timings} == {"not comparable"}
    assert "measured" in timings[0].reason
    assert found.verdict == "ok"


def test_what_is_possible_can_be_made_a_failure(document: dict[str, Any]) -> None:
    assert len(compared(document, document, fail_unclear=True).failures) == 4


def test_the_document_has_every_gate(document: dict[str, Any]) -> None:
    found = compared(document, spoilt(document, slower)).to_dict()
    assert (found["schema"], found["verdict"]) == (1, "fails")
    assert found["counts"] == {"ok": 11, "fails": 1, "unclear": 3}
    assert {"kind", "of", "base", "new", "change", "limit", "verdict", "reason"} <= set(found["gates"][0])
