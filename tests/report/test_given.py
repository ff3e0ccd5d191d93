"""What the given network scored as it came is the "before" of every comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.report.plots.history import draw_training
from jstc.report.plots.networks import draw_pareto
from jstc.report.tables import table
from jstc.summary import Summary, to_document

GIVEN = {"accuracy": 0.999, "loss": 0.012, "test_images": 599, "seconds": 2.5}


def put(run: Path, name: str, document: dict[str, Any]) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(json.dumps(document))


@pytest.fixture
def started(finished: Path) -> Path:
    """A finished run that was given weights."""
    put(finished, "given/result.json", GIVEN)
    return finished


def summarised(run: Path) -> Summary:
    found = report.summarise(run)
    assert isinstance(found, Summary)
    return found


def test_the_summary_has_it_with_the_target_network(started: Path) -> None:
    found = to_document(summarised(started))
    assert found["target"]["accuracy_before"] == 0.999
    expected = {"loss": 0.012, "test_images": 599, "chance": None, "mismatch": None, "notes": []}
    assert found["given"] == expected
    assert found["seconds"]["given"] == 2.5


def test_without_weights_nothing_is_said_of_it(finished: Path) -> None:
    found = summarised(finished)
    assert found.given is None
    assert found.target.accuracy_before is None
    assert "given" not in report.markdown(report.read(finished)).lower()


def test_an_older_run_has_it_in_another_file(finished: Path, contents: dict[str, Any]) -> None:
    put(finished, "target.json", contents["target.json"] | {"accuracy_before": 0.9})
    assert summarised(finished).target.accuracy_before == 0.9


def test_the_table_compares_with_both(started: Path) -> None:
    rows = [row for row in table(summarised(started)) if row.label.startswith("Top-1")]
    assert rows == [
        ("Top-1, given network", "99.90 % ±0.72", "99.33 %", "-0.57 points"),
        ("Top-1, trained alone", "99.40 %", "99.33 %", "-0.07 points"),
    ]


def test_the_headline_is_against_the_given_network(started: Path) -> None:
    text = report.markdown(report.read(started))
    assert (
        "**Accuracy: 99.33 %.** Top-1 on the test split, -0.57 points against the 99.90 % ±0.72 of the given "
        "network as it came, and -0.07 points against the 99.40 % of the target network trained alone "
        "from the same weights for as many epochs." in text
    )


@pytest.mark.parametrize(
    ("before", "alone", "state"),
    [(0.99, 0.994, "neutral"), (0.999, 0.99, "neutral"), (0.99, 0.99, "good")],
)
def test_it_is_good_only_against_both(finished: Path, before: float, alone: float, state: str) -> None:
    put(finished, "given/result.json", GIVEN | {"accuracy": before})
    put(finished, "baseline/result.json", {"accuracy": alone, "epochs": 32})
    [found] = [one for one in report.read(finished).findings if one.fact == "Accuracy"]
    assert found.state == state


def test_without_a_baseline_it_is_all_there_is_to_compare_with(started: Path) -> None:
    (started / "baseline" / "result.json").unlink()
    recipe = started / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("baseline: true", "baseline: false"))
    assert [row.label for row in table(summarised(started))][2:4] == ["Top-1, given network", "ONNX file"]
    told = "\n".join(summarised(started).notes)
    assert "The given network was not trained on alone (baseline: false)" in told
    assert "its accuracy is not known" not in told


def test_what_it_seems_to_expect_otherwise_is_a_warning_of_the_report(started: Path) -> None:
    other = {
        "kind": "statistics", "what": "", "settings": {}, "accuracy": 0.95, "as_given": 0.2, "images": 384,
    }  # fmt: skip
    put(started, "given/result.json", GIVEN | {"mismatch": other})
    [found] = [one for one in report.read(started).findings if one.fact == "Given network"]
    assert (found.state, found.note) == ("warn", True)
    assert "with them 20.00 % of 384 training images are right, with statistics estimated anew 95.00 %" in (
        found.sentence
    )
    assert found.sentence.endswith("input.mean and input.std say how yours were.")
    assert found.sentence in summarised(started).notes
    assert "do not seem to belong to its weights" in report.html(report.read(started))


def test_how_its_weights_were_read_is_in_the_report(started: Path) -> None:
    put(
        started,
        "given/result.json",
        GIVEN | {"notes": ["weights w.pt: those of the network are under 'net'"]},
    )
    found = summarised(started)
    assert found.given is not None
    assert found.given.notes == ["weights w.pt: those of the network are under 'net'"]
    assert "Weights w.pt: those of the network are under 'net'." in report.markdown(report.read(started))
    assert "Weights w.pt: those of the network" in report.html(report.read(started))


def test_of_a_given_network_at_chance_it_is_not_said_besides_that_something_is_amiss(started: Path) -> None:
    other = {
        "kind": "statistics", "what": "", "settings": {}, "accuracy": 0.95, "as_given": 0.2, "images": 384,
    }  # fmt: skip
    for accuracy, times in ((0.9, 1), (0.1, 0)):
        put(started, "given/result.json", GIVEN | {"accuracy": accuracy, "chance": 0.1, "mismatch": other})
        notes = summarised(started).notes
        assert sum("seems to be amiss" in note for note in notes) == times
        assert sum("where guessing reaches 10.00 %" in note for note in notes) == 1 - times


def test_a_gain_over_a_network_that_something_is_wrong_with_gets_no_tick(started: Path) -> None:
    """A network whose statistics are lost is easily outdone."""
    other = {"kind": "statistics", "what": "", "settings": {}, "accuracy": 0.95, "as_given": 0.2, "images": 9}
    put(started, "baseline/result.json", {"accuracy": 0.9, "epochs": 32})
    for mismatch, state in ((None, "good"), (other, "warn")):
        put(started, "given/result.json", GIVEN | {"accuracy": 0.2, "mismatch": mismatch})
        [found] = [one for one in report.read(started).findings if one.fact == "Accuracy" and one.figure]
        assert found.state == state


def test_the_picture_of_the_training_has_a_line_for_each(started: Path) -> None:
    put(started, "finetune/result.json", {"accuracy": 0.9933, "seconds": 133.0, "epochs": 2})
    lines = [{"epoch": n, "accuracy": 0.9, "loss": 0.1, "lr": 0.1} for n in range(2)]
    (started / "finetune" / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    data = report.read(started)
    assert isinstance(data, report.RunData)
    drawing = draw_training(data)
    assert drawing is not None
    assert drawing.alt.endswith("trained alone at 99.40 %, the given network had 99.90 % ±0.72")
    assert "given network: 99.90 %" in drawing.svg
    assert "The test split is read before the training and at the end." in drawing.caption


@pytest.fixture
def sweep(two_budgets: Path) -> Path:
    """A finished run of two budgets that was given weights."""
    for folder in (two_budgets, *(path.parent for path in two_budgets.glob("*/recipe.yaml"))):
        put(folder, "given/result.json", GIVEN)
    return two_budgets


def test_several_budgets_are_compared_with_it(sweep: Path) -> None:
    _, rows = report.sweep_table(report.summarise(sweep))
    assert [row[0] for row in rows] == ["given", "trained alone", "flops0.7", "flops0.5"]
    assert [row[3:5] for row in rows] == [
        ["99.90 % ±0.72", ""], ["99.40 %", "-0.50"], ["99.33 %", "-0.57"], ["99.33 %", "-0.57"],
    ]  # fmt: skip
    _, wide = report.sweep_table(report.summarise(sweep), wide=True)
    assert [row[4] for row in wide] == ["", "-0.50 points", "-0.57 points", "-0.57 points"]


def test_the_reports_of_several_budgets_say_what_changes_are_counted_from(sweep: Path) -> None:
    data = report.read(sweep)
    for text in (report.markdown(data), report.html(data)):
        assert "against the given network as it came" in text
    assert "99.33 % top-1 (-0.57 points)" in report.markdown(data)
    assert report.html(data).count('class="reference"') == 2
    assert to_document(data.summary)["seconds"]["given"] == 2.5


def test_the_picture_of_several_budgets_has_both(sweep: Path) -> None:
    drawing = draw_pareto(report.summarise(sweep))
    assert drawing is not None
    assert drawing.alt.endswith("given network 99.90 % at 41.0 M, target network 99.40 % at 41.0 M")
    assert drawing.caption.endswith("The dashed line is the given network as it came.")
