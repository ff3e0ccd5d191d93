"""How sure accuracies are, and which of them are no more than a warning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.cli import results
from jstc.report.findings import Finding
from jstc.report.plots.history import draw_training
from jstc.summary import Summary, to_document

GOOD = {"test_images": 599, "chance": 0.1018, "training_accuracy": 0.97}
Put = Callable[..., None]


@pytest.fixture
def put(finished: Path, contents: dict[str, Any]) -> Put:
    """Change the results of a network: of `baseline`, or of `finetune`, which is the slim one."""

    def change(stage: str, accuracy: float, **figures: Any) -> None:
        document = contents[f"{stage}/result.json"] | GOOD | {"accuracy": accuracy} | figures
        (finished / stage / "result.json").write_text(json.dumps(document))
        if stage == "finetune":
            slim = contents["slim/result.json"] | {"accuracy": accuracy}
            (finished / "slim" / "result.json").write_text(json.dumps(slim))

    change("baseline", 0.9700)
    change("finetune", 0.9750)
    return change


def accuracy(run: Path) -> Finding:
    return next(one for one in report.read(run).findings if one.fact == "Accuracy" and one.figure)


def summarised(run: Path) -> Summary:
    found = report.summarise(run)
    assert isinstance(found, Summary)
    return found


def test_accuracies_and_their_difference_have_sampling_errors(finished: Path, put: Put) -> None:
    found = accuracy(finished)
    assert (found.state, found.figure) == ("good", "97.50 % ±1.6")
    assert found.sentence == (
        "Top-1 on the test split, +0.50 ±2.0 points against the 97.00 % ±1.7 of the target network trained "
        "alone for as many epochs; no difference beyond the sampling error (±, 95 %)."
    )
    row = next(row for row in report.table(summarised(finished)) if row.label.startswith("Top-1"))
    assert row[1:] == ("97.00 % ±1.7", "97.50 % ±1.6", "+0.50 ±2.0 points")
    text, page = (shown(report.read(finished)) for shown in (report.markdown, report.html))
    for one in ("97.50 % ±1.6", "97.00 % ±1.7", "+0.50 ±2.0 points"):
        assert one in text
        assert one.replace(" ", "\N{NO-BREAK SPACE}") in page.replace(" ", "\N{NO-BREAK SPACE}")


def test_an_accuracy_of_every_file_has_one_too(finished: Path, put: Put) -> None:
    found = next(one for one in report.read(finished).findings if one.fact == "fp32 file")
    assert found.figure == "99.33 % ±1.0"
    assert "| 99.33 % ±1.0 |" in report.markdown(report.read(finished))


def test_a_loss_beyond_the_error_is_not_called_none(finished: Path, put: Put) -> None:
    put("finetune", 0.90)
    found = accuracy(finished)
    assert found.state == "neutral"
    assert "-7.00 ±2.9 points against" in found.sentence
    assert "beyond" not in found.sentence


BROKEN = [
    ("baseline", 0.0968, "The target network trained alone scores 9.68 % ±2.6", "guessing reaches 10.18 %"),
    ("finetune", 0.1085, "The slim network scores 10.85 % ±2.7", "guessing reaches 10.18 %"),
    (
        "baseline",
        0.3333,
        "The target network trained alone scores 33.33 % ±3.9",
        "97.00 % on the images that",
    ),
    ("finetune", 0.3333, "The slim network scores 33.33 % ±3.9", "97.00 % on the images that"),
    (
        "baseline",
        0.8200,
        "The target network trained alone is not at its best after 32 epochs",
        " 15.50 ±3.4 points more",
    ),
]


@pytest.mark.parametrize(("stage", "value", "begins", "has"), BROKEN)
def test_a_side_that_is_broken_is_a_warning_everywhere(
    finished: Path,
    put: Put,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    value: float,
    begins: str,
    has: str,
) -> None:
    put(stage, value)
    data = report.read(finished)
    found = accuracy(finished)
    assert found.state == "warn"
    assert found.sentence.startswith(begins)
    warning = next(one for one in to_document(data.summary)["warnings"] if one.startswith(begins))
    assert has in warning
    assert warning in data.summary.notes
    text, page = report.markdown(data), report.html(data)
    assert "- ! **Accuracy: " in text
    assert f"- ! {warning}" in text
    assert page.count(f"<span>{warning.split(' scores')[0].split(' is not')[0]}") >= 1
    assert "✓ **Accuracy" not in text
    results.summary(data.summary, finished, as_json=False)
    assert f"warning: {warning}\n" in capsys.readouterr().err


def test_a_headline_does_not_count_points_against_a_broken_network(finished: Path, put: Put) -> None:
    put("baseline", 0.3333)
    assert "points" not in accuracy(finished).sentence
    assert accuracy(finished).sentence.endswith(
        "beside the 33.33 % ±3.9 of the target network trained alone for as many epochs."
    )


def test_a_network_at_chance_is_warned_of_with_nothing_beside_it(finished: Path, put: Put) -> None:
    put("finetune", 0.10)
    (finished / "baseline" / "result.json").unlink()
    found = accuracy(finished)
    assert found.state == "warn"
    assert "points" not in found.sentence
    assert summarised(finished).warnings


def test_files_of_a_broken_network_get_no_tick(finished: Path, put: Put) -> None:
    put("finetune", 0.10)
    found = [one for one in report.read(finished).findings if one.fact == "fp32 file"]
    assert [one.state for one in found] == ["warn"]


def test_nothing_is_claimed_of_runs_whose_results_do_not_say_enough(finished: Path) -> None:
    found = accuracy(finished)
    assert "±" not in found.sentence + found.figure
    assert summarised(finished).references["trained alone"].doubt is None


def test_a_teacher_is_a_difference_between_the_two_and_said(finished: Path, put: Put) -> None:
    told = "also learnt from the target network's answers (finetune.teacher)"
    assert not any(told in note for note in summarised(finished).notes)
    recipe = finished / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "finetune: {teacher: target}\n")
    assert any(told in note for note in summarised(finished).notes)


def test_budgets_whose_comparison_means_nothing_get_no_tick(
    two_budgets: Path, contents: dict[str, Any]
) -> None:
    before = {one.fact: one for one in report.read(two_budgets).findings}
    broken = contents["baseline/result.json"] | GOOD | {"accuracy": 0.0968}
    for folder in (two_budgets, *(path.parent for path in two_budgets.glob("*/recipe.yaml"))):
        (folder / "baseline").mkdir(exist_ok=True)
        (folder / "baseline" / "result.json").write_text(json.dumps(broken))
    data = report.read(two_budgets)
    found = {one.fact: one for one in data.findings}
    labels = ["flops0.7", "flops0.5"]
    assert not any("doubt" in before[one].figure for one in labels)
    assert [found[one].state for one in labels] == ["warn"] * 2
    assert all("accuracy in doubt" in found[one].figure for one in labels)
    assert found["Target network"].state == "warn"
    told = [
        one for one in data.summary.warnings if "The target network trained alone scores 9.68 % ±2.6" in one
    ]
    assert len(told) == 1
    assert "9.68 % ±2.6" in report.markdown(data)


def test_the_picture_of_the_training_has_them(write_lines: Callable[..., Path], put: Put) -> None:
    drawing = draw_training(report.read(write_lines()))
    assert drawing is not None
    assert "test, slim network: 97.50 % ±1.6" in drawing.svg
    assert "trained alone: 97.00 % ±1.7" in drawing.svg
    assert "ends at 97.50 % ±1.6 on the test split" in drawing.alt


def test_a_finetune_of_another_length_than_the_search_counted_on_is_said(finished: Path, put: Put) -> None:
    whole = summarised(finished)
    assert not [note for note in whole.notes if note.startswith("Finetune had")]
    put("finetune", 0.9750, epochs=9, planned_epochs=4)
    told = "Finetune had 9 epochs; the search, and the target network trained alone, counted on 4."
    assert told in summarised(finished).notes
    assert "alone for as many epochs as the run was begun with;" in accuracy(finished).sentence
