"""The gate on latency, with a clock of our own making."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jstc.gate import GateReport, Measuring, Place, Settings, Timed, compare, limits, parse_side
from jstc.ort.statistics import change_of_recorded, change_of_repeats

BASE, NEW = Path("base"), Path("new")


class Clock:
    """Times files: `slowdown` of the new one, noise between repeats, and a bias against who runs second."""

    def __init__(self, slowdown: float, *, noise: float = 0.0, bias: float = 0.0, seed: int = 0) -> None:
        self.slowdown, self.noise, self.bias = slowdown, noise, bias
        self.generator = np.random.default_rng(seed)
        self.calls: list[tuple[Path, Path, Place]] = []
        self.efforts: list[int] = []

    def __call__(self, first: Path, second: Path, place: Place, *, effort: int) -> Timed:
        self.calls.append((first, second, place))
        self.efforts.append(effort)
        ratio = 1 + self.slowdown if second.is_relative_to(NEW) else 1 / (1 + self.slowdown)
        ratio *= (1 + self.bias) * float(np.exp(self.noise * self.generator.standard_normal()))
        return Timed(1.0, ratio, ratio)


def timed(document: dict[str, Any], clock: Clock, *, unusable: Any = None, **settings: Any) -> GateReport:
    base, new = (parse_side(document, name=str(root), root=root) for root in (BASE, NEW))
    how = Measuring(clock, unusable or (lambda _: None), lambda _: None)
    settings = {"places": (Place("cpu", 1),), **settings}
    return compare(base, new, settings=Settings(**settings), measuring=how)


@pytest.fixture
def one_file(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "onnx": document["onnx"][:1], "bench": []}


def gate_of(found: GateReport) -> Any:
    [gate] = [gate for gate in found.gates if gate.kind == "latency"]
    return gate


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.1, 0.3])
def test_the_same_network_never_fails(one_file: dict[str, Any], noise: float) -> None:
    verdicts = [
        gate_of(timed(one_file, Clock(0.0, noise=noise, bias=0.02, seed=seed))).verdict for seed in range(100)
    ]
    assert verdicts.count("fails") == 0
    assert noise > 0.02 or verdicts.count("ok") > 90


@pytest.mark.parametrize(("slowdown", "noise"), [(0.08, 0.005), (0.2, 0.03), (0.5, 0.1)])
def test_a_slower_network_fails(one_file: dict[str, Any], slowdown: float, noise: float) -> None:
    gates = [gate_of(timed(one_file, Clock(slowdown, noise=noise, seed=seed))) for seed in range(20)]
    assert [gate.verdict for gate in gates].count("fails") >= 19
    assert gates[0].change == pytest.approx(slowdown, abs=3 * noise)
    assert gates[0].low > 0.05


def test_who_runs_second_makes_no_difference(one_file: dict[str, Any]) -> None:
    clock = Clock(0.0, bias=0.2)
    gate = gate_of(timed(one_file, clock))
    assert (gate.verdict, gate.change) == ("ok", pytest.approx(0))
    assert len(clock.calls) == 2 * Measuring.least
    assert [call[0].parts[0] for call in clock.calls[:4]] == ["base", "new", "base", "new"]


def test_the_times_shown_are_as_far_apart_as_the_change(one_file: dict[str, Any]) -> None:
    """Though the medians of the repeats are not: of a busy machine, which slowed the base more often."""

    class Busy(Clock):
        def __call__(self, first: Path, second: Path, place: Place, *, effort: int) -> Timed:
            found = super().__call__(first, second, place, effort=effort)
            slow = 1.0 if len(self.calls) % 3 else 4.0
            first_ms, second_ms = (slow if path.is_relative_to(BASE) else 1.1 for path in (first, second))
            return Timed(first_ms, second_ms, found.ratio)

    gate = gate_of(timed(one_file, Busy(0.02, noise=0.001)))
    assert gate.verdict == "ok"
    assert gate.change == pytest.approx(0.02, abs=0.005)
    assert gate.new / gate.base == pytest.approx(1 + gate.change)
    assert 1 < gate.base < 2


def test_what_is_unclear_is_repeated_up_to_a_limit_and_passes(one_file: dict[str, Any]) -> None:
    clock = Clock(0.05, noise=0.05)
    found = timed(one_file, clock)
    assert (gate_of(found).verdict, found.verdict) == ("unclear", "ok")
    assert clock.efforts == [1] * 8 + [2] * 8 + [4] * 12
    assert "99.9 % interval" in gate_of(found).reason
    assert timed(one_file, Clock(0.05, noise=0.05), fail_unclear=True).verdict == "fails"


def test_a_failure_takes_more_repeats_than_a_pass(one_file: dict[str, Any]) -> None:
    clock = Clock(0.5)
    assert gate_of(timed(one_file, clock)).verdict == "fails"
    assert len(clock.calls) == 2 * Measuring.to_fail


def test_a_limit_that_was_asked_for_holds(one_file: dict[str, Any]) -> None:
    assert gate_of(timed(one_file, Clock(0.2), limits=limits({"latency": "30%"}))).verdict == "ok"
    clock = Clock(0.2)
    assert gate_of(timed(one_file, clock, limits=limits({"latency": "off"}))).verdict == "off"
    assert clock.calls == []


def test_files_are_timed_where_the_runs_were(document: dict[str, Any]) -> None:
    clock = Clock(0.0)
    document["bench"][1]["threads"] = 3
    document["onnx"].append({"file": "export/p.onnx", "precision": "fp32", "preprocess": True})
    found = timed(document, clock, places=())
    assert {gate.of for gate in found.gates if gate.kind == "latency"} == {
        "fp32, cpu batch 1, 3 threads", "fp32, cpu batch 8", "int8, cpu batch 1", "int8, cpu batch 8",
    }  # fmt: skip
    assert clock.calls[0] == (BASE / "export/model.onnx", NEW / "export/model.onnx", Place("cpu", 1, 3))


def test_threads_can_be_chosen_for_all(one_file: dict[str, Any]) -> None:
    assert gate_of(timed(one_file, Clock(0.0), threads=1)).of == "fp32, cpu batch 1, 1 threads"


def test_files_that_no_run_timed_are_timed_at_batch_1(one_file: dict[str, Any]) -> None:
    assert gate_of(timed(one_file, Clock(0.0), places=())).of == "fp32, cpu batch 1"


@pytest.mark.parametrize("places", [(), (Place("cpu", 1), Place("cpu", 8))])
def test_files_for_one_batch_size_are_timed_at_that(one_file: dict[str, Any], places: Any) -> None:
    one_file["onnx"][0]["batch"] = 4
    clock = Clock(0.0)
    assert gate_of(timed(one_file, clock, places=places)).of == "fp32, cpu batch 4"
    assert {call[2] for call in clock.calls} == {Place("cpu", 4)}


def test_files_for_different_batch_sizes_are_not_comparable(one_file: dict[str, Any]) -> None:
    other = {**one_file, "onnx": [one_file["onnx"][0] | {"batch": 8}]}
    one_file["onnx"][0]["batch"] = 4
    base, new = parse_side(one_file, name="base", root=BASE), parse_side(other, name="new", root=NEW)
    clock = Clock(0.5)
    how = Measuring(clock, lambda _: None, lambda _: None)
    gate = gate_of(compare(base, new, settings=Settings(), measuring=how))
    assert (gate.verdict, clock.calls) == ("not comparable", [])
    assert "for batch 4, the new one for batch 8" in gate.reason


def test_a_provider_that_is_not_here_is_not_comparable(one_file: dict[str, Any]) -> None:
    found = timed(one_file, Clock(0.5), places=(Place("cuda", 1),), unusable=lambda name: f"no {name}")
    assert (gate_of(found).verdict, gate_of(found).reason) == ("not comparable", "not measured: no cuda")
    assert found.verdict == "ok"


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(1.8, 1.8, "unclear"), (1.8, 2.6, "ok"), (1.8, 1.2, "fails"), (1.0, 0.7, "fails"),
     (1.02, 0.824, "unclear")],  # the last: one file, two runs on a busy machine
)  # fmt: skip
def test_recorded_speed_ups_fail_only_beyond_what_processes_differ_by(
    one_file: dict[str, Any], before: float, after: float, verdict: str
) -> None:
    def side(speedup: float) -> Any:
        row = {"file": "export/model.onnx", "provider": "cpu", "batch": 1, "speedup_vs_target": speedup}
        return parse_side({**one_file, "bench": [row]}, name="x")

    found = compare(side(before), side(after), settings=Settings())
    assert gate_of(found).verdict == verdict
    assert gate_of(found).change == pytest.approx(before / after - 1)


def test_speed_ups_without_a_target_are_none(one_file: dict[str, Any]) -> None:
    row = {"file": "export/model.onnx", "provider": "cpu", "batch": 1, "speedup_vs_target": 1.0}
    side = parse_side({**one_file, "bench": [{**row, "verdict": "no target"}]}, name="x")
    gate = gate_of(compare(side, side, settings=Settings()))
    assert (gate.verdict, gate.reason) == ("not comparable", "timed without the target network")


def test_intervals_are_students() -> None:
    # Logarithms 0, 0.02, 0.04, 0.06: mean 0.03, standard error 0.0129; t(3) is 5.841 and 12.924.
    ratios = [float(np.exp(log)) for log in (0.0, 0.02, 0.04, 0.06)]
    found = change_of_repeats(ratios, confidence=0.99)
    assert np.log1p([found.change, found.low, found.high]) == pytest.approx(
        [0.03, -0.04541, 0.10541], abs=1e-4
    )
    assert np.log1p(change_of_repeats(ratios, confidence=0.999).high) == pytest.approx(0.19686, abs=1e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    draws = np.exp(0.1 + 0.05 * generator.standard_normal((2000, 5)))
    found = [change_of_repeats(row.tolist(), confidence=0.99) for row in draws]
    held = np.mean([change.low < np.expm1(0.1) < change.high for change in found])
    assert held == pytest.approx(0.99, abs=0.006)


def test_uncertain_speed_ups_widen_the_interval() -> None:
    sure: Callable[..., Any] = change_of_recorded
    assert sure((2, 1.5, 2.5), (2, 2, 2)).high > 1.2 * sure((2, 2, 2), (2, 2, 2)).high


def test_machines_are_named_in_one_line(document: dict[str, Any]) -> None:
    other = {**document, "environment": {"cpu": "b\n::error::so", "packages": {"onnxruntime": "1"}}}
    gate = compare(parse_side(document, name="a"), parse_side(other, name="b"), settings=Settings()).gates[-1]
    assert gate.verdict == "not comparable"
    assert gate.reason == "measured on other machines (cpu: a CPU; b ::error::so)"
