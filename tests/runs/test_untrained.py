"""A network that was trained before is cut and mended without any training: `search.rounds: 0`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from jstc.channels import ChannelMap
from jstc.core import files
from jstc.errors import RecipeError
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands
from jstc.runs.manifest import Manifest
from jstc.runs.workspace import Workspace

SETTINGS = [
    "input.image_size=8", "input.augment=false", "search.rounds=0", "finetune.epochs=0",
    "search.reconstruction_images=256", "channels.round_to=1", "train.precision=float32", "device=cpu",
    "threads=1", "search.candidates=16", "search.candidate_images=128",
]  # fmt: skip
BEFORE_BENCH = ["given", "search", "finetune", "slim", "export"]


@pytest.fixture(scope="module")
def trained(network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the network after some epochs of digits."""
    recipe = loading.from_flags({"model": network, "dataset": "digits", "flops": "0.5"}, SETTINGS[:2])
    workspace = Workspace(recipe)
    model = workspace.new_target().train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(12):
        for images, labels in workspace.dataset.train.ordered(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("trained") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def recipe(network: str, trained: Path) -> Callable[..., Recipe]:
    def make(*settings: str, weights: Path | None = trained, flops: str = "0.35") -> Recipe:
        flags = {"model": network, "dataset": "digits", "flops": flops, "weights": weights}
        return loading.from_flags(flags, [*SETTINGS, *settings])

    return make


def results(run: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = files.read_json(run / stage / "result.json")
    return found


def test_a_cut_network_is_mended_and_nothing_is_trained(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any, trained: Path
) -> None:
    before = trained.read_bytes()
    run = commands.run(recipe(), out=tmp_path / "r", only=BEFORE_BENCH, progress=messages)
    found = results(run, "search")
    mended = found["reconstruction"]
    assert (found["rounds"], found["images_seen"], found["steps"]) == (0, 0, 0)
    assert mended["accuracy_as_cut"] < found["accuracy"]
    assert all(layer["before"] < layer["after"] for layer in mended["explained"].values())
    assert sum(text.startswith("reconstruction: ") for text in messages.texts) == 1
    tuned = results(run, "finetune")
    assert (tuned["epochs"], tuned["images_seen"]) == (0, 0)
    assert "training_accuracy" not in tuned
    assert results(run, "slim")["accuracy"] == tuned["accuracy"]
    as_cut = commands.run(
        recipe("search.reconstruction_images=0"), out=tmp_path / "cut", only=BEFORE_BENCH[:3]
    )
    assert "reconstruction" not in results(as_cut, "search")
    assert results(as_cut, "finetune")["accuracy"] < tuned["accuracy"] - 0.05
    assert trained.read_bytes() == before


def test_what_fitting_makes_worse_stays_as_it_was_cut(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ChannelMap.reconstruct

    def spoilt(channels: ChannelMap, whole: nn.Module, small: nn.Module, *others: Any, **options: Any) -> Any:
        found = fit(channels, whole, small, *others, **options)
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.neg_()
        return found

    monkeypatch.setattr(ChannelMap, "reconstruct", spoilt)
    same = "search.thresholds=common"  # the same plan in both; candidates would be mended as well
    run = commands.run(recipe(same), out=tmp_path / "r", only=BEFORE_BENCH, progress=messages)
    as_cut = commands.run(
        recipe(same, "search.reconstruction_images=0"), out=tmp_path / "cut", only=["search"]
    )
    found = results(run, "search")
    mended = found["reconstruction"]
    assert found["accuracy"] == mended["accuracy_as_cut"] == results(as_cut, "search")["accuracy"]
    assert mended["accuracy_as_fitted"] < found["accuracy"]
    assert any("fitted: they stay as cut" in text for text in messages.texts)
    assert "layers fitted" not in (run / "export" / "MODEL_CARD.md").read_text()
    weights = [load_file(at / "search" / "subnetwork.safetensors") for at in (run, as_cut)]
    assert all(torch.equal(one, other) for one, other in zip(*map(dict.values, weights), strict=True))


def test_the_report_misses_nothing_of_it(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = commands.run(recipe(), out=tmp_path / "r", only=[*BEFORE_BENCH, "report"])
    document = files.read_json(run / "summary.json")
    assert (document["search"]["rounds"], document["finetune"]["epochs"]) == (0, 0)
    assert not [text for text in document["notes"] if "has not run" in text and "finetune" in text]
    assert "layers fitted to the given network" in (run / "export" / "MODEL_CARD.md").read_text()


def test_several_budgets_are_each_cut_from_the_same_network(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = commands.run(recipe(flops="0.5,0.3"), out=tmp_path / "r", only=["search"])
    alone = commands.run(recipe(flops="0.3"), out=tmp_path / "a", only=["search"])
    several, one = (files.read_json(at / "search" / "plan.json") for at in (run / "flops0.3", alone))
    assert several == one


def test_finetune_goes_on_from_the_mended_network(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    settings = ("finetune.epochs=1", "finetune.steps_per_epoch=1", "train.lr=1e-9")
    run = commands.run(recipe(*settings), out=tmp_path / "r", only=["search", "finetune"])
    mended = commands.run(recipe(), out=tmp_path / "m", only=["search", "finetune"])
    # One step of nearly nothing: what differs is the batch-norm statistics, estimated anew.
    assert results(run, "finetune")["accuracy"] > results(mended, "finetune")["accuracy"] - 0.1


@pytest.mark.parametrize(
    ("settings", "given", "said"),
    [
        ((), False, "search.rounds: 0 cuts.*trained=True"),
        (("baseline=true",), True, "baseline: nothing is trained"),
    ],
)
def test_what_makes_no_sense_is_refused(
    recipe: Callable[..., Recipe], tmp_path: Path, trained: Path, settings: Any, given: bool, said: str
) -> None:
    made = recipe(*settings, weights=trained if given else None)
    with pytest.raises(RecipeError, match=said):
        commands.run(made, out=tmp_path / "r", only=["search"])
    assert not (tmp_path / "r").exists()


def test_it_goes_on_where_it_was(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    commands.run(recipe(), out=tmp_path / "r", only=["search"])
    plan = (tmp_path / "r" / "search" / "plan.json").read_bytes()
    run = commands.run(recipe(), out=tmp_path / "r", only=BEFORE_BENCH[:4])
    assert (run / "search" / "plan.json").read_bytes() == plan
    manifest = Manifest.load(run)
    assert manifest is not None and manifest.is_done("slim")
