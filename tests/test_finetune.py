from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jstc import data
from jstc.channels import ChannelMap, analyse, fold
from jstc.core.progress import Silent
from jstc.errors import RunDirectoryError
from jstc.finetune import finetune, train_baseline
from jstc.plan import Plan
from jstc.recipe.schema import InputSettings, Recipe
from jstc.train import handover, seeds
from jstc.train.fit import fit
from jstc.train.job import FitResult, Job
from jstc.train.loop import evaluate
from jstc.train.metrics import History
from jstc.train.schedule import run_schedule

SEARCHED = 6  # steps of the search: two rounds of three


def recipe(**changes: Any) -> Recipe:
    document: dict[str, Any] = {
        "model": "net.py:net",
        "dataset": "digits",
        "flops": 0.5,
        "train": {"batch_size": 64, "lr": 0.03},
        "search": {"rounds": 2, "steps_per_round": 3},
        "finetune": {"epochs": 2, "steps_per_epoch": 10},
    }
    return Recipe.model_validate(document | changes)


class Net(nn.Module):
    def __init__(self, info: data.DataInfo) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(info.channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 4 * 4, info.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv2(self.bn1(self.conv1(images)).relu()).relu()
        return self.fc(nn.functional.max_pool2d(hidden, 4).flatten(1))


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("digits", root=None, settings=InputSettings(), seed=0, device=torch.device("cpu"))


@pytest.fixture
def target(dataset: data.Dataset) -> nn.Module:
    with seeds.seeded(0, "target"):
        return Net(dataset.info)


@pytest.fixture
def channels(target: nn.Module, dataset: data.Dataset) -> ChannelMap:
    return analyse(target, torch.zeros(1, *dataset.info.input_shape))


@pytest.fixture
def source(target: nn.Module, channels: ChannelMap, tmp_path: Path) -> Path:
    return searched(tmp_path / "search", target, channels, step=SEARCHED)


def searched(directory: Path, target: nn.Module, channels: ChannelMap, *, step: int) -> Path:
    plan = channels.uniform_plan(flops=0.5)
    alpha = {name: torch.full((count,), 1.5) for name, count in plan.counts.items()}
    gated = channels.gated(channels.slice(target, plan), plan, alpha)
    momentum = {name: torch.full_like(tensor, 1e-3) for name, tensor in gated.network.named_parameters()}
    plan.save(directory / "plan.json")
    handover.save_subnetwork(
        directory / "subnetwork.safetensors", gated, optimizer={"momentum": momentum}, plan=plan, step=step
    )
    return directory


def result(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "result.json").read_text())


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(t, second[n]) for n, t in first.items())


def test_finetune_trains_what_the_search_left_and_hands_it_on(
    target: nn.Module, channels: ChannelMap, dataset: data.Dataset, source: Path, tmp_path: Path
) -> None:
    before = state(target)
    mine, directory = recipe(), tmp_path / "finetune"
    finetune(target, channels, dataset, recipe=mine, source=source, directory=directory, progress=Silent())
    assert equal(state(target), before)
    plan = Plan.load(source / "plan.json")
    assert not (directory / "plan.json").exists()  # the run has one plan: the search's
    start = handover.load_subnetwork(source / "subnetwork.safetensors", plan=plan)
    end = handover.load_subnetwork(directory / "subnetwork.safetensors", plan=plan)
    assert end.step == run_schedule(mine, dataset).total == 26
    assert equal(end.gates, start.gates)
    assert not torch.equal(end.network["conv1.weight"], start.network["conv1.weight"])
    gated = channels.gated(channels.slice(target, plan), plan)
    end.restore(gated)
    figures = evaluate(gated, dataset.test.ordered(256))
    found = result(directory)
    assert found["accuracy"] == pytest.approx(figures.accuracy, abs=1e-9)
    assert found["accuracy"] > 0.3
    assert (found["epochs"], found["images_seen"]) == (2, 20 * 64)


def test_the_job_is_what_the_search_handed_over(
    target: nn.Module,
    channels: ChannelMap,
    dataset: data.Dataset,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs: list[Job] = []

    def record(job: Job, **rest: Any) -> FitResult:
        jobs.append(job)
        return fit(job, **rest)

    monkeypatch.setattr("jstc.finetune.fit", record)
    mine = recipe(finetune={"epochs": 1, "steps_per_epoch": 1}, input={"augment": False})
    finetune(
        target, channels, dataset, recipe=mine, source=source, directory=tmp_path / "f", progress=Silent()
    )
    start = handover.load_subnetwork(source / "subnetwork.safetensors", plan=Plan.load(source / "plan.json"))
    assert jobs[0].split is dataset.train_full
    assert not jobs[0].augment
    assert jobs[0].optimizer is not None
    assert equal(jobs[0].optimizer["momentum"], start.optimizer["momentum"])
    assert start.optimizer["momentum"]["fc.bias"].any()
    assert not any(t.requires_grad for n, t in jobs[0].network.named_parameters() if "network." not in n)


def test_the_schedule_goes_on_where_the_search_ended(
    target: nn.Module, channels: ChannelMap, dataset: data.Dataset, source: Path, tmp_path: Path
) -> None:
    mine, directory = recipe(), tmp_path / "finetune"
    finetune(target, channels, dataset, recipe=mine, source=source, directory=directory, progress=Silent())
    schedule = run_schedule(mine, dataset)
    rates = [record["lr"] for record in History(directory / "history.jsonl", index="epoch").read()]
    assert rates == [schedule.at(SEARCHED + 9), schedule.at(SEARCHED + 19)]


def test_steps_that_a_settled_search_left_over_are_trained(
    target: nn.Module, channels: ChannelMap, dataset: data.Dataset, tmp_path: Path
) -> None:
    class Told(Silent):
        def message(self, text: str) -> None:
            told.append(text)

    told: list[str] = []
    for step in (3, SEARCHED):
        source = searched(tmp_path / f"search{step}", target, channels, step=step)
        directory = tmp_path / f"finetune{step}"
        finetune(
            target, channels, dataset, recipe=recipe(), source=source, directory=directory, progress=Told()
        )
    early = result(tmp_path / "finetune3")
    assert (early["epochs"], early["images_seen"]) == (3, 23 * 64)
    # And said, as the bar counts more epochs than the recipe has; nothing is where the search took all.
    told = [text for text in told if text.startswith("finetune: ")]  # some processors have more to say
    assert told == ["finetune: 3 epochs, 2 of finetune.epochs, and 1 that the search left over"]


def test_a_cut_off_finetune_ends_with_the_same_file(
    target: nn.Module,
    channels: ChannelMap,
    dataset: data.Dataset,
    source: Path,
    tmp_path: Path,
    power_cut: Any,
) -> None:
    inputs: dict[str, Any] = {"recipe": recipe(), "source": source}
    finetune(target, channels, dataset, **inputs, directory=tmp_path / "whole", progress=Silent())
    with power_cut(1) as progress:
        finetune(target, channels, dataset, **inputs, directory=tmp_path / "cut", progress=progress)
    assert not (tmp_path / "cut" / "result.json").exists()
    finetune(target, channels, dataset, **inputs, directory=tmp_path / "cut", progress=Silent())
    whole, cut = ((tmp_path / n / "subnetwork.safetensors").read_bytes() for n in ("whole", "cut"))
    assert whole == cut


def test_a_checkpoint_of_another_search_is_refused(
    target: nn.Module, channels: ChannelMap, dataset: data.Dataset, source: Path, tmp_path: Path
) -> None:
    other = searched(tmp_path / "other", target, channels, step=3)
    inputs: dict[str, Any] = {"recipe": recipe(), "directory": tmp_path / "f", "progress": Silent()}
    finetune(target, channels, dataset, source=source, **inputs)
    with pytest.raises(RunDirectoryError, match="another training"):
        finetune(target, channels, dataset, source=other, **inputs)


@pytest.mark.parametrize("weights", [None, Path("given.safetensors")])
def test_the_teacher_has_an_effect_and_comes_from_the_right_place(
    target: nn.Module,
    channels: ChannelMap,
    dataset: data.Dataset,
    source: Path,
    tmp_path: Path,
    weights: Path | None,
) -> None:
    taught = recipe(finetune={"epochs": 2, "steps_per_epoch": 10, "teacher": "target"}, weights=weights)
    if weights is None:  # then the search's own target network is the teacher
        other = copy.deepcopy(target)
        nn.init.normal_(other.fc.weight)
        save_file(state(other), source / "target.safetensors")
    files = []
    for name, mine in (("plain", recipe(weights=weights)), ("taught", taught)):
        directory = tmp_path / name
        finetune(
            target, channels, dataset, recipe=mine, source=source, directory=directory, progress=Silent()
        )
        files.append((directory / "subnetwork.safetensors").read_bytes())
    assert files[0] != files[1]


def test_a_missing_teacher_says_where_it_should_be(
    target: nn.Module, channels: ChannelMap, dataset: data.Dataset, source: Path, tmp_path: Path
) -> None:
    mine = recipe(finetune={"epochs": 1, "steps_per_epoch": 1, "teacher": "target"})
    with pytest.raises(RunDirectoryError, match=r"teacher cannot be read from .*target\.safetensors"):
        finetune(
            target, channels, dataset, recipe=mine, source=source, directory=tmp_path / "f", progress=Silent()
        )


def test_the_baseline_trains_a_copy_for_the_epochs_of_the_whole_run(
    target: nn.Module, dataset: data.Dataset, tmp_path: Path
) -> None:
    before = state(target)
    train_baseline(target, dataset, recipe=recipe(), directory=tmp_path, progress=Silent())
    assert equal(state(target), before)
    found = result(tmp_path)
    assert found["epochs"] == 1 + 2  # the search's six steps are less than one epoch
    last = History(tmp_path / "history.jsonl", index="epoch").read()[-1]
    assert found["training_accuracy"] == last["accuracy"]
    labels = torch.cat([batch for _, batch in dataset.test.ordered(256)])
    assert found["chance"] == max(labels.bincount().tolist()) / len(labels) > 0.1
    trained = copy.deepcopy(target)
    trained.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert not equal(state(trained), before)
    assert found["accuracy"] == pytest.approx(evaluate(trained, dataset.test.ordered(256)).accuracy, abs=1e-9)


def test_averaged_weights_are_what_is_scored_and_handed_on(
    target: nn.Module, channels: ChannelMap, dataset: data.Dataset, source: Path, tmp_path: Path
) -> None:
    averaged = recipe(finetune={"epochs": 2, "steps_per_epoch": 10, "ema_decay": 0.9})
    found = {}
    for name, mine in (("plain", recipe()), ("averaged", averaged)):
        finetune(
            target,
            channels,
            dataset,
            recipe=mine,
            source=source,
            directory=tmp_path / name,
            progress=Silent(),
        )
        plan = Plan.load(source / "plan.json")
        found[name] = handover.load_subnetwork(tmp_path / name / "subnetwork.safetensors", plan=plan)
    assert not equal(found["plain"].network, found["averaged"].network)
    # The averaging changes nothing but what comes out: the optimiser has been the same way.
    assert equal(found["plain"].optimizer["momentum"], found["averaged"].optimizer["momentum"])
    gated = channels.gated(channels.slice(target, plan), plan)
    found["averaged"].restore(gated)
    figures = evaluate(gated, dataset.test.ordered(256))
    assert result(tmp_path / "averaged")["accuracy"] == pytest.approx(figures.accuracy, abs=1e-9)


def test_the_baseline_is_averaged_too(target: nn.Module, dataset: data.Dataset, tmp_path: Path) -> None:
    averaged = recipe(finetune={"epochs": 1, "steps_per_epoch": 5, "ema_decay": 0.9})
    plain = recipe(finetune={"epochs": 1, "steps_per_epoch": 5})
    for name, mine in (("plain", plain), ("averaged", averaged)):
        train_baseline(target, dataset, recipe=mine, directory=tmp_path / name, progress=Silent())
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "averaged")]
    assert not equal(*files)


def test_with_compile_the_compiled_network_is_trained(
    target: nn.Module,
    channels: ChannelMap,
    dataset: data.Dataset,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr("jstc.train.device.compiled", lambda module: compiled.append(module) or module)
    mine = recipe(finetune={"epochs": 1, "steps_per_epoch": 2, "compile": True})
    finetune(
        target, channels, dataset, recipe=mine, source=source, directory=tmp_path / "f", progress=Silent()
    )
    train_baseline(target, dataset, recipe=mine, directory=tmp_path / "b", progress=Silent())
    assert [type(module).__name__ for module in compiled] == ["GatedNetwork", "Net"]
    opened(source, target, channels)
    finetune(
        target, channels, dataset, recipe=mine, source=source, directory=tmp_path / "g", progress=Silent()
    )
    assert isinstance(compiled[-1], type(target))  # without gates, which are all one


def opened(source: Path, target: nn.Module, channels: ChannelMap) -> None:
    """Sets every gate of the sub-network in `source` to one."""
    path, plan = source / "subnetwork.safetensors", Plan.load(source / "plan.json")
    start, gated = (
        handover.load_subnetwork(path, plan=plan),
        channels.gated(channels.slice(target, plan), plan),
    )
    start.restore(gated)
    gated.alpha.data.fill_(1.0)
    assert start.optimizer is not None
    handover.save_subnetwork(path, gated, optimizer=start.optimizer, plan=plan, step=start.step)


@pytest.mark.parametrize("momentum", [0.1, 0.001, None])
@pytest.mark.parametrize("who", ["slim", "target"])
def test_statistics_are_those_of_the_trained_weights_for_both_networks(
    target: nn.Module,
    channels: ChannelMap,
    dataset: data.Dataset,
    tmp_path: Path,
    who: str,
    momentum: float | None,
) -> None:
    """Running averages lag behind, hold what they began with, and the two networks began differently."""
    target.bn1.momentum = momentum
    target.bn1.running_mean.fill_(7.0)  # as of other weights, or other data
    mine = recipe(input={"augment": False})
    inputs: dict[str, Any] = {"recipe": mine, "directory": tmp_path / "out", "progress": Silent()}
    if who == "target":
        train_baseline(target, dataset, **inputs)
        trained = copy.deepcopy(target)
        trained.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    else:
        source = searched(tmp_path / "search", target, channels, step=SEARCHED)
        finetune(target, channels, dataset, source=source, **inputs)
        plan = Plan.load(source / "plan.json")
        gated = channels.gated(channels.slice(target, plan), plan)
        handover.load_subnetwork(tmp_path / "out" / "subnetwork.safetensors", plan=plan).restore(gated)
        trained = fold(gated)
    images = torch.cat([batch for batch, _ in dataset.train_full.ordered(256)])
    with torch.no_grad():
        hidden = trained.conv1(images)
    assert torch.allclose(trained.bn1.running_mean, hidden.mean((0, 2, 3)), atol=0.05)
    assert torch.allclose(trained.bn1.running_var, hidden.var((0, 2, 3)), rtol=0.1)
    assert result(tmp_path / "out")["accuracy"] > 0.3


def test_statistics_are_of_the_averaged_weights_where_these_are_what_comes_out(
    target: nn.Module, dataset: data.Dataset, tmp_path: Path
) -> None:
    averaged = recipe(
        input={"augment": False}, finetune={"epochs": 2, "steps_per_epoch": 10, "ema_decay": 0.9}
    )
    train_baseline(target, dataset, recipe=averaged, directory=tmp_path, progress=Silent())
    trained = copy.deepcopy(target)
    trained.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = torch.cat([batch for batch, _ in dataset.train_full.ordered(256)])
    with torch.no_grad():
        hidden = trained.conv1(images)
    assert torch.allclose(trained.bn1.running_mean, hidden.mean((0, 2, 3)), atol=0.05)
    assert torch.allclose(trained.bn1.running_var, hidden.var((0, 2, 3)), rtol=0.1)
