"""The given network is scored before anything else, once, and what it was worth stays with the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from jstc.core import files
from jstc.errors import BudgetError, Interrupted
from jstc.jst.joint import Search
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands, network_check, stages, workers
from jstc.runs.stages import given
from jstc.runs.workspace import StageContext, Workspace

QUICKLY = [
    "input.image_size=8", "search.rounds=2", "search.steps_per_round=2", "search.recalibration_images=64",
    "search.eval_images=64", "finetune.epochs=1", "finetune.steps_per_epoch=2", "channels.round_to=1",
    "device=cpu", "threads=1", "search.candidates=8", "search.candidate_images=64",
]  # fmt: skip
IMAGES = 599  # of the digits' test split


@pytest.fixture
def recipe(network: str, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes with weights: those of the network when it begins, with one class favoured."""
    path = tmp_path / "weights.safetensors"

    def make(*settings: str, flops: str | None = "0.5", **flags: Any) -> Recipe:
        common = {"model": network, "dataset": "digits", "flops": flops}
        if not path.exists():
            plain = loading.from_flags(common | {"flops": "0.5"}, QUICKLY)
            model = Workspace(plain).new_target()
            model.fc.bias.data[3] += 100.0
            save_file(model.state_dict(), path)
        return loading.from_flags(common | {"weights": path, **flags}, [*QUICKLY, *settings])

    return make


def share_of_threes(recipe: Recipe) -> float:
    labels = [label for _, batch in Workspace(recipe).dataset.test.ordered(64) for label in batch.tolist()]
    return labels.count(3) / len(labels)


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = files.read_json(run / "given" / "result.json")
    return found


def test_without_weights_there_is_nothing_to_score(recipe: Callable[..., Recipe]) -> None:
    assert "given" not in stages.names(stages.table(recipe().model_copy(update={"weights": None})))


def test_it_is_the_first_of_all_and_nothing_trained_hangs_on_it(recipe: Callable[..., Recipe]) -> None:
    table = stages.table(recipe("baseline=true"))
    assert stages.names(table)[:3] == ["given", "baseline", "search"]
    assert stages.built_on(table, "given") == ["report"]


def test_a_search_scores_it_first_says_so_and_keeps_it(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    rounds = Search.run_rounds
    monkeypatch.setattr(Search, "run_rounds", lambda self: (order.append("rounds"), rounds(self)))
    monkeypatch.setattr(messages, "start", lambda stage, *_: order.append(stage))
    run = commands.run(recipe(), out=tmp_path / "r", only=["search"], progress=messages)
    assert order.index("given") < order.index("rounds")
    found = result(run)
    assert (found["accuracy"], found["test_images"]) == (pytest.approx(share_of_threes(recipe())), IMAGES)
    assert found["loss"] > 50
    told = [text for text in messages.texts if text.startswith("given network: ")]
    right = share_of_threes(recipe()) * IMAGES
    assert told == [
        f"given network: {100 * found['accuracy']:.2f} % ±2.7 ({right:.0f} of 599 test images), "
        f"loss {found['loss']:.4g}"
    ]
    assert "accuracy_before" not in files.read_json(run / "target.json")


def test_how_its_weights_were_read_is_said_once_before_its_score(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any
) -> None:
    plain = recipe()
    path = tmp_path / "wrapped.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in load_file(str(plain.weights)).items()}, path)
    run = commands.run(recipe(weights=path), out=tmp_path / "r", only=["search"], progress=messages)
    note = f"weights {path}: those of the network are under 'model'"
    assert messages.texts.count(note) == 1
    assert messages.texts[messages.texts.index(note) + 1].startswith("given network: ")
    assert result(run)["notes"] == [note]
    commands.run(recipe(weights=path), out=tmp_path / "r", only=["finetune", "slim"], progress=messages)
    assert messages.texts.count(note) == 1


def test_weights_at_chance_are_a_warning_before_anything_is_trained(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(self: Search) -> None:
        assert sum("WARNING" in text for text in messages.texts) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "run_rounds", begun)
    with pytest.raises(Interrupted):
        commands.run(recipe(), out=tmp_path / "r", only=["search"], progress=messages)
    found = result(tmp_path / "r")
    assert (found["mismatch"]["kind"], found["mismatch"]["what"]) == ("classifier", "fc")
    told = " ".join(text.removeprefix("! ") for text in messages.texts)
    assert "is at chance" in told
    assert "The last layer of the given network, 'fc', looks as torch initialises it" in told
    assert told.index("given network: ") < told.index("WARNING")


def test_a_run_that_goes_on_does_not_score_it_again(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Search, "run_rounds", stop)
        with pytest.raises(Interrupted):
            commands.run(recipe(), out=tmp_path / "r", only=["search"])
    before = (tmp_path / "r" / "given" / "result.json").read_bytes()
    monkeypatch.setattr(given, "score_given", lambda _: pytest.fail("scored again"))
    commands.run(recipe(), out=tmp_path / "r", only=["search"])
    assert (tmp_path / "r" / "given" / "result.json").read_bytes() == before


def test_a_score_is_kept_while_alternatives_are_still_tried(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jstc.runs.mismatch.find", stop)
        with pytest.raises(Interrupted):
            commands.run(recipe(), out=tmp_path / "r", only=["search"])
    monkeypatch.setattr(given, "score_given", lambda _: pytest.fail("scored again"))
    commands.run(recipe(), out=tmp_path / "r", only=["search"], progress=messages)
    assert result(tmp_path / "r")["mismatch"]["kind"] == "classifier"
    assert any("WARNING" in text for text in messages.texts)


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": "0.9"},
        {"accuracy": 1.5},
        {"test_images": 0},
        {"chance": None},
        {"loss": []},
        {"notes": [1]},
    ],
)
def test_a_score_that_is_none_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    sound = {"accuracy": 0.5, "loss": None, "chance": 0.1, "test_images": 100}
    monkeypatch.setattr(given, "score_given", lambda _: sound)
    context: Any = SimpleNamespace(folder=tmp_path)
    (tmp_path / "result.json").write_text(json.dumps(sound | {"accuracy": 0.6}))
    assert given._kept(context)["accuracy"] == 0.6
    (tmp_path / "result.json").write_text(json.dumps(sound | change))
    assert given._kept(context) == sound


def test_all_processes_take_part_in_scoring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds what process 0 asks for by its name."""
    known: dict[str, Any] = {}
    monkeypatch.setattr(workers, "worker_loop", lambda training, *_: known.update(training) or 0)
    assert commands.follow() == 0
    assert known[given.score_given.__name__] is given.score_given


def test_the_baseline_survives_when_its_figures_are_lost(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    whole = recipe("baseline=true")
    run = commands.run(whole, out=tmp_path / "r", only=["baseline", "search"])
    kept = [(run / name).stat().st_mtime_ns for name in ("baseline/result.json", "search/plan.json")]
    (run / "given" / "result.json").unlink()
    commands.run(whole, out=run, only=["search"])
    assert result(run)["test_images"] == IMAGES
    assert kept == [(run / name).stat().st_mtime_ns for name in ("baseline/result.json", "search/plan.json")]


def test_several_budgets_score_it_once_and_each_has_it(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, asked = given.score_given, []
    monkeypatch.setattr(given, "score_given", lambda context: (asked.append(context.path), score(context))[1])
    run = commands.run(recipe(flops="0.7,0.5"), out=tmp_path / "r", only=["search"])
    assert asked == [run]
    whole = (run / "given" / "result.json").read_bytes()
    for label in ("flops0.7", "flops0.5"):
        assert (run / label / "given" / "result.json").read_bytes() == whole
        states = json.loads((run / label / "manifest.json").read_text())["stages"]
        assert states["given"]["state"] == "done"


def test_it_is_scored_before_latencies_are_measured(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget that turns out to be out of reach is found by measuring: after the score, before the run."""

    def measured(self: Workspace) -> None:
        assert any(text.startswith("given network: ") for text in messages.texts)
        raise BudgetError("out of reach")

    monkeypatch.setattr(Workspace, "latency", property(measured))
    with pytest.raises(BudgetError, match="out of reach"):
        commands.run(recipe(flops=None, latency="0.5"), out=tmp_path / "r", progress=messages)
    assert not (tmp_path / "r").exists()


def test_what_was_scored_before_measuring_is_not_scored_again(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(recipe(flops=None, latency="0.5"))
    workspace.belongs_to(tmp_path / "r")
    network_check._score_given(workspace, tmp_path / "r")
    monkeypatch.setattr(given, "score_given", lambda _: pytest.fail("scored again"))
    context = StageContext(workspace, tmp_path / "r", tmp_path / "r" / "given", workspace.progress)
    assert given.given(context)["test_images"] == IMAGES


def test_a_report_of_an_older_run_needs_no_new_score(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the accuracy with the target network, and no record of the stage."""
    house.run()
    (house.path / "summary.json").unlink()
    table = house.table
    needed = {"report": ("bench", "given")}
    monkeypatch.setattr(
        stages,
        "table",
        lambda recipe: [
            stages.Stage("given", house.function("given")),
            *(stages.Stage(s.name, s.run, needed.get(s.name, s.inputs), s.loose) for s in table(recipe)),
        ],
    )
    house.ran.clear()
    commands.write_report(house.path)
    assert house.ran == ["report"]
