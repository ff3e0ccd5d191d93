"""Weights for other classes: the new classifier is trained alone, and the run starts from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jstc import slim
from jstc.core import files
from jstc.core.progress import Silent
from jstc.errors import Interrupted, RunDirectoryError, StageError
from jstc.jst.joint import Search
from jstc.models import ModelSpec, build
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands, network_check, workers
from jstc.runs.outline import outline
from jstc.runs.stages import given
from jstc.runs.workspace import Workspace
from jstc.train import head

QUICKLY = [
    "input.image_size=8", "search.rounds=1", "search.steps_per_round=2", "search.recalibration_images=64",
    "search.eval_images=64", "search.importance_images=64", "finetune.epochs=1", "finetune.steps_per_epoch=2",
    "channels.round_to=1", "device=cpu", "threads=1", "train.precision=float32",
    "search.candidates=8", "search.candidate_images=64",
]  # fmt: skip


@pytest.fixture
def recipe(network: str, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes with weights of the network for seven classes; the digits are ten."""
    path = tmp_path / "seven.safetensors"

    def make(*settings: str, flops: str | None = "0.5", **flags: Any) -> Recipe:
        common = {"model": network, "dataset": "digits", "flops": flops}
        if not path.exists():
            plain = loading.from_flags(common | {"flops": "0.5"}, QUICKLY)
            spec = Workspace(plain).spec
            seven = type(spec)(spec.name, 7, *spec.input_shape, cifar=False)
            save_file(build(seven, seed=1).state_dict(), path)
        return loading.from_flags(common | {"weights": path, **flags}, [*QUICKLY, *settings])

    return make


def search(recipe: Recipe, out: Path, **options: Any) -> Path:
    return commands.run(recipe, out=out, only=["search"], **options)


def kept(run: Path) -> dict[str, Tensor]:
    return load_file(run / "given" / "head.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_new_classifier_is_trained_alone_and_the_search_starts_from_it(
    recipe: Callable[..., Recipe], tmp_path: Path, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, started = recipe(), list[dict[str, Tensor]]()
    begin = Search.__init__

    def begun(self: Search, target: nn.Module, *others: Any, **options: Any) -> None:
        started.append({key: tensor.clone() for key, tensor in target.state_dict().items()})
        begin(self, target, *others, **options)

    monkeypatch.setattr(Search, "__init__", begun)
    run = search(asked, tmp_path / "r", progress=messages)
    theirs = load_file(asked.weights)
    for key, tensor in started[0].items():
        if key.startswith("fc."):
            assert torch.equal(tensor, kept(run)[f"0.{key.removeprefix('fc.')}"])
        else:  # statistics of the batch norms included
            assert torch.equal(tensor, theirs[key]), key
    figures = files.read_json(run / "given" / "result.json")
    history = (run / "given" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in history]
    assert losses[-1] < losses[0]
    assert f"weights {asked.weights} are for 7 classes, 10 here: `fc` starts anew" in figures["notes"]
    epochs = head.epochs_of(asked, Workspace(asked).dataset)
    assert figures["notes"][-1] == f"the new `fc` was trained alone first, for {epochs} epochs"
    said = [text.split()[0] for text in messages.texts if re.search("anew|alone first|given network", text)]
    assert said[:3] == ["weights", "the", "given"]
    assert any(f"new classifier alone {epochs} epochs; search 1 round" in text for text in messages.texts)


def test_training_it_changes_nothing_else_of_the_network(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    workspace = Workspace(recipe("train.head_epochs=1"))
    network, fitted = workspace.with_weights()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    needed = [p.requires_grad for p in network.parameters()]
    head.train(
        network, fitted.new_head, workspace.dataset, recipe=workspace.recipe,
        path=tmp_path / "head.safetensors", progress=Silent(),
    )  # fmt: skip
    changed = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert [p.requires_grad for p in network.parameters()] == needed


def test_a_training_of_it_that_is_broken_off_ends_with_the_same(
    recipe: Callable[..., Recipe], tmp_path: Path, power_cut: Callable[..., AbstractContextManager[Any]]
) -> None:
    asked = recipe("train.head_epochs=3", "checkpoint.every_steps=1")
    whole = search(asked, tmp_path / "whole")
    with power_cut(2) as progress:
        search(asked, tmp_path / "cut", progress=progress)
    assert not (tmp_path / "cut" / "given" / "head.safetensors").exists()
    assert (tmp_path / "cut" / "given" / "checkpoint.safetensors").exists()
    assert equal(kept(search(asked, tmp_path / "cut")), kept(whole))
    plans = [(run / "search" / "plan.json").read_bytes() for run in (whole, tmp_path / "cut")]
    assert plans[0] == plans[1]


def test_a_run_that_goes_on_does_not_train_it_again(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(given, "score_given", stop)
        with pytest.raises(Interrupted):
            search(recipe(), tmp_path / "r")
    before = kept(tmp_path / "r")
    monkeypatch.setattr(given, "train_head", lambda _: pytest.fail("trained again"))
    assert equal(kept(search(recipe(), tmp_path / "r")), before)


def test_it_is_left_as_it_is_where_that_is_asked_for(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = search(recipe("train.head_epochs=0"), tmp_path / "r")
    assert not (run / "given" / "head.safetensors").exists()
    assert files.read_json(run / "given" / "result.json")["mismatch"]["kind"] == "classifier"


def test_every_later_stage_has_it_and_misses_it(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    asked = recipe("finetune.teacher=target")
    run = search(asked, tmp_path / "r")
    (run / "given" / "head.safetensors").unlink()
    with pytest.raises((RunDirectoryError, StageError), match=r"head\.safetensors") as raised:
        commands.run_stage(run, "finetune", recipe=asked)
    assert "given again, trains it again" in str(raised.value)
    search(asked, run)
    commands.run_stage(run, "finetune", recipe=asked)


def test_several_budgets_share_one(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    asked = recipe(flops="0.7,0.5")
    run = search(asked, tmp_path / "r")
    for label in ("flops0.7", "flops0.5"):
        assert equal(kept(run / label), kept(run))
    commands.run_stage(run / "flops0.5", "slim", recipe=asked.at("flops0.5"))
    assert (run / "flops0.5" / "slim" / "model.safetensors").is_file()


def test_all_processes_take_part_in_training_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Any] = {}
    monkeypatch.setattr(workers, "worker_loop", lambda training, *_: known.update(training) or 0)
    commands.follow()
    assert known["train_head"] is given.train_head


def test_before_latencies_are_measured_there_is_nothing_to_score(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given, "before_measuring", lambda _: pytest.fail("scored"))
    network_check._score_given(Workspace(recipe(flops=None, latency="0.5")), tmp_path / "r")
    with pytest.raises(BaseException, match="scored"):
        ten = recipe("cifar=false").model_copy(update={"weights": None})
        workspace = Workspace(ten)
        save_file(workspace.bare().state_dict(), tmp_path / "ten.safetensors")
        again = recipe(flops=None, latency="0.5", weights=tmp_path / "ten.safetensors")
        network_check._score_given(Workspace(again), tmp_path / "r")


@pytest.mark.parametrize(("steps", "epochs"), [(1, 10), (30, 4), (100, 1), (5000, 1)])
def test_as_many_epochs_as_have_a_hundred_steps(
    recipe: Callable[..., Recipe], steps: int, epochs: int
) -> None:
    class Split:
        def steps(self, batch_size: int) -> int:
            return steps

    class Data:
        train = Split()

    given_data: Any = Data()
    assert head.epochs_of(recipe(), given_data) == epochs
    assert head.epochs_of(recipe("train.head_epochs=2"), given_data) == 2


def test_a_slim_network_of_hugging_face_loads_without_the_hub(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=4
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    flags = {"model": f"hf:{tmp_path / 'net'}", "dataset": "digits", "flops": "0.5", "weights": "default"}
    asked = loading.from_flags(flags, [*QUICKLY, "train.head_epochs=1"])
    run = search(asked, tmp_path / "r")
    commands.run_stage(run, "slim", recipe=asked)
    assert [*kept(run)] == ["0.bias", "0.weight"]
    (tmp_path / "net").rename(tmp_path / "gone")
    network = slim.load(run / "slim")
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    whole = build(ModelSpec.from_dict(json.loads((run / "slim" / "model.json").read_text())["model"]))
    sizes = [sum(p.numel() for p in one.parameters()) for one in (network, whole)]
    assert sizes[0] < sizes[1]


# What a run says that it starts from, and what it fetches.


def rows(recipe: Recipe, tmp_path: Path) -> dict[str, str]:
    return dict(outline(Workspace(recipe), tmp_path, ["search"]))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("shufflenet_v2_x0_5", "from scratch; --weights default starts from ImageNet"),
        ("timm:test_resnet", "from scratch; --weights default starts from timm's test_resnet.r160_in1k"),
        ("timm:test_resnet.r160_in1k", "from scratch, not from the weights of its name; --weights default"),
        ("resnet20", "from scratch (--weights FILE starts from yours)"),
    ],
)
def test_from_scratch_is_said_with_what_there_is(model: str, said: str, tmp_path: Path) -> None:
    if model.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    flags = {"model": model, "dataset": "digits", "flops": "0.5"}
    side = [] if model == "resnet20" else ["input.image_size=32"]
    found = rows(loading.from_flags(flags, [*side, "device=cpu"]), tmp_path)
    assert found["network"].rpartition("parameters, ")[2].startswith(said)


def test_a_dry_run_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched"))
    flags = {"model": "shufflenet_v2_x0_5", "dataset": "digits", "flops": "0.5", "weights": "default"}
    asked = loading.from_flags(flags, ["device=cpu", "input.image_size=32"])
    found = dict(commands.try_out(asked, out=tmp_path / "r"))
    assert found["network"].endswith("ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1, to be fetched")
    assert list(tmp_path.iterdir()) == []
    workspace = Workspace(asked)  # of a run, which has fetched them by the time that it says so
    assert workspace.start.endswith("IMAGENET1K_V1")
