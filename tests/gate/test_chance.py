"""Gates on counted shares: chance alone seldom fails them, a true drop does, and too few images are said."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from jstc.gate import GateReport, Settings, compare, limits, parse_side, workflow_commands
from jstc.gate.chance import Counted


def runs(
    document: dict[str, Any], *accuracies: float, images: int | None = 600, kind: str = "accuracy"
) -> list[dict[str, Any]]:
    """The run with other accuracies (or agreements) of int8, on so many images."""
    found = []
    for value in accuracies:
        new = copy.deepcopy(document)
        new["finetune"] = {"test_images": images}
        for file in new["onnx"]:
            file["parity_images"] = images
        new["onnx"][1][kind] = value
        found.append(new)
    return found


def compared(base: dict[str, Any], new: dict[str, Any], **settings: Any) -> GateReport:
    return compare(parse_side(base, name="a"), parse_side(new, name="b"), settings=Settings(**settings))


def gate_of(found: GateReport, kind: str) -> Any:
    [gate] = [gate for gate in found.gates if (gate.kind, gate.of) == (kind, "int8")]
    return gate


def test_two_images_of_64_fail_nothing(document: dict[str, Any]) -> None:
    base, new = runs(document, 63 / 64, 61 / 64, images=64, kind="top1_agreement")
    found = compared(base, new)
    gate = gate_of(found, "top1_agreement")
    assert (found.verdict, gate.verdict) == ("ok", "unclear")
    assert gate.reason == "within the noise of 64 images"
    assert compared(base, new, fail_unclear=True).verdict == "fails"
    assert [line.split("::")[1] for line in workflow_commands(found) if "agreement" in line] == [
        "warning title=jstc compare"
    ]


@pytest.mark.parametrize(("right", "verdict"), [(594, "ok"), (585, "ok"), (584, "unclear"), (579, "unclear"),
                                                (578, "fails"), (500, "fails")])  # fmt: skip
def test_a_drop_beyond_the_limit_and_beyond_chance_fails(
    document: dict[str, Any], right: int, verdict: str
) -> None:
    base, new = runs(document, 588 / 600, right / 600)
    assert gate_of(compared(base, new), "accuracy").verdict == verdict


def test_a_significant_drop_within_the_limit_passes(document: dict[str, Any]) -> None:
    base, new = runs(document, 0.95, 0.93, images=50_000)
    assert gate_of(compared(base, new, limits=limits({"accuracy": "2.5"})), "accuracy").verdict == "ok"
    assert gate_of(compared(base, new), "accuracy").verdict == "fails"


def test_where_nothing_was_counted_the_limit_alone_decides(document: dict[str, Any]) -> None:
    base, new = runs(document, 0.98, 0.97, images=None)
    for file in (*base["onnx"], *new["onnx"]):
        file["parity_images"] = None
    found = compared(base, new)
    assert [gate.kind for gate in found.failures] == ["accuracy"]
    assert found.notes == ("accuracy: on how many images is not recorded, so that chance is not allowed for",)


def test_too_few_images_are_said_with_what_would_be_enough(document: dict[str, Any]) -> None:
    base, new = runs(document, 0.98, 0.98)
    notes = compared(base, new).notes
    assert notes[0] == (
        "accuracy: on 600 images (the test split) a drop of less than 1.7 points is not told from chance; to "
        "tell one of 0.5, about 4,800 would be enough"
    )
    assert notes[1].startswith("top-1 agreement: on 600 images (export.parity_images) a drop of less than ")
    enough = runs(document, 0.98, 0.98, images=60_000)
    assert compared(*enough).notes == ()
    assert compared(base, new, limits=limits({"accuracy": "off", "top1_agreement": "5"})).notes == ()


def test_what_is_said_to_be_enough_is_and_one_less_is_not() -> None:
    counted = Counted(0.98, 0.98, 600, 600)
    enough = counted.enough(0.005)
    assert enough is not None
    assert Counted(0.98, 0.975, enough, enough).least_drop > 0
    assert Counted(0.98, 0.975, enough - 1, enough - 1).least_drop <= 0
    assert Counted(0.98, 0.98 - counted.detectable, 600, 600).least_drop > 0
    assert Counted(0.98, 0.98 - counted.detectable + 1 / 600, 600, 600).least_drop <= 0
    assert Counted(0.004, 0.0, 600, 600).enough(0.005) is None
    assert counted.enough(0.0) is None


def rate(base: float, new: float, *, images: int, limit: float, alike: float, trials: int = 2000) -> float:
    """How often the gate fails; a part `alike` of the images has the same fate in both runs."""
    random = np.random.default_rng(0)
    common = random.binomial(1, alike, (trials, images)) == 1
    draws, others = random.random((2, trials, images))
    before = draws < base
    after = np.where(common, draws, others) < new
    failed = 0
    for one, other in zip(before.mean(axis=1), after.mean(axis=1), strict=True):
        counted = Counted(float(one), float(other), images, images)
        failed += one - other > limit + 1e-9 and counted.least_drop > 0
    return failed / trials


@pytest.mark.parametrize(("images", "share"), [(64, 0.98), (64, 0.75), (600, 0.98), (600, 0.75)])
@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_chance_fails_the_gate_less_often_than_one_time_in_twenty(
    images: int, share: float, alike: float
) -> None:
    assert rate(share, share, images=images, limit=0.005, alike=alike) <= 0.06


@pytest.mark.parametrize(
    ("base", "new", "images", "least"),
    [(0.98, 0.95, 600, 0.8), (0.98, 0.85, 64, 0.75), (0.75, 0.72, 5000, 0.9), (0.98, 0.96, 600, 0.5)],
)
def test_a_true_drop_is_found(base: float, new: float, images: int, least: float) -> None:
    found = rate(base, new, images=images, limit=0.005, alike=0.0, trials=500)
    assert found >= least
    assert rate(base, new, images=images, limit=0.005, alike=0.8, trials=500) >= found
