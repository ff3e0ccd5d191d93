"""What makes a speed-up uncertain, one reason at a time, and that a plain gain has none."""

from __future__ import annotations

from typing import Any

import pytest

from jstc.ort.doubts import Speed, speed, speed_of, verdict
from jstc.ort.statistics import Ratio
from jstc.summary import Network, Target, Timing

TARGET = {"file": "target.onnx", "provider": "cpu", "batch": 1, "median_ms": 10.0, "verdict": "target"}
GAIN = {
    "file": "model.onnx", "provider": "cpu", "batch": 1, "median_ms": 5.5, "speedup_vs_target": 1.82,
    "ratio_low": 1.75, "ratio_high": 1.9, "verdict": "gain", "precision": "fp32", "flops_ratio": 2.0,
    "disturbance": {"others": 0.1, "waited": 0.01, "stolen": 0.0},
}  # fmt: skip


def judged(**changes: Any) -> Speed:
    target = Timing.model_validate(TARGET)
    return speed(Timing.model_validate(GAIN | changes), target=target)


def test_a_narrow_interval_on_a_calm_machine_below_the_ideal_is_a_gain() -> None:
    found = judged()
    assert (found.standing, found.doubts, found.text, found.mark) == ("gain", (), "1.82x", "")
    assert found.with_interval == "1.82x (1.75 to 1.90)"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"ratio_low": 1.5}, "wide"),
        ({"ratio_high": 2.2}, "wide"),
        ({"disturbance": {"others": 0.51, "waited": 0.0, "stolen": 0.0}}, "busy"),
        ({"disturbance": {"others": 0.0, "waited": 0.06, "stolen": 0.0}}, "busy"),
        ({"disturbance": {"others": None, "waited": None, "stolen": 0.06}}, "busy"),
        ({"flops_ratio": 1.65}, "beyond"),
        ({"median_ms": 5.9}, "apart"),
        ({"median_ms": 5.1}, "apart"),
    ],
)
def test_each_reason_alone_makes_it_uncertain(changes: dict[str, Any], kind: str) -> None:
    found = judged(**changes)
    assert [doubt.kind for doubt in found.doubts] == [kind]
    assert (found.standing, found.mark) == ("uncertain", " (uncertain)")


@pytest.mark.parametrize(
    "changes",
    [
        {"flops_ratio": 1.66},  # a tenth above the ideal is not yet strange
        {"flops_ratio": 1.5, "precision": "int8"},  # whose arithmetic gains as well
        {"flops_ratio": None},
        {"disturbance": None},
        {"disturbance": {"others": None, "waited": None, "stolen": None}},
        {"median_ms": None},
        {"ratio_low": None, "ratio_high": None},
    ],
)
def test_what_is_not_known_or_within_the_margin_is_no_reason(changes: dict[str, Any]) -> None:
    assert judged(**changes).standing == "gain"


@pytest.mark.parametrize(
    ("given", "standing"),
    [("no gain", "no gain"), ("unclear", "unclear"), (None, "gain"), ("odd", "unclear")],
)
def test_verdicts_of_the_measuring_hold(given: str | None, standing: str) -> None:
    assert judged(verdict=given).standing == standing


def test_a_wide_interval_leaves_few_digits() -> None:
    found = judged(speedup_vs_target=5.38, ratio_low=1.31, ratio_high=7.27, median_ms=10 / 5.38)
    assert found.text == "about 5x"
    assert found.reasons == "its interval is wide, it is more than the 2.00x that the FLOPs explain"
    assert judged(speedup_vs_target=1.19, ratio_low=1.1, ratio_high=1.35, median_ms=8.4).text == "about 1.2x"


@pytest.mark.parametrize(("value", "doubted"), [(0.89, False), (1.2, True)])
def test_a_larger_file_that_is_slower_needs_no_explanation(value: float, doubted: bool) -> None:
    found = judged(
        speedup_vs_target=value, ratio_low=value - 0.02, ratio_high=value + 0.02, median_ms=10 / value,
        flops_ratio=0.71,
    )  # fmt: skip
    assert ("beyond" in [doubt.kind for doubt in found.doubts]) is doubted


def test_in_a_network_precision_ideal_and_target_are_those_of_its_files() -> None:
    row = {key: value for key, value in GAIN.items() if key not in ("precision", "flops_ratio")}
    files = [{"file": "model.onnx", "precision": "fp32"}]
    network = Network.model_validate({"slim": {"flops": 70}, "onnx": files, "bench": [TARGET, row]})
    [timing] = network.compared_rows
    found = speed_of(network, timing, Target(flops=100))
    assert [doubt.kind for doubt in found.doubts] == ["beyond"]
    eight = network.model_copy(update={"onnx": [network.onnx[0].model_copy(update={"precision": "int8"})]})
    assert speed_of(eight, timing, Target(flops=100)).standing == "gain"
    assert speed_of(network, timing, Target()).standing == "gain"


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(Ratio(1.05, 1.04, 1.06), "no gain"), (Ratio(0.7, 0.6, 0.8), "no gain"),
     (Ratio(1.0549, 1.03, 1.06), "no gain"),  # shown as 1.05x
     (Ratio(1.0551, 1.03, 1.06), "gain"),
     (Ratio(1.03, 0.5, 2.3), "unclear"), (Ratio(0.7, 0.5, 1.0), "no gain"),
     (Ratio(1.2, 0.9, 1.5), "unclear"), (Ratio(1.2, 1.1, 1.3), "gain")],
)  # fmt: skip
def test_speed_ups_are_called_by_their_name(ratio: Ratio, expected: str) -> None:
    assert verdict(ratio) == expected
