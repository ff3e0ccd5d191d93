"""What a recipe can switch on in a training: each has an effect, and a training cut off ends the same."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jstc.core.progress import Silent
from jstc.errors import RunDirectoryError
from jstc.recipe.schema import CheckpointSettings, TrainSettings
from jstc.train import checkpoint, optim
from jstc.train.fit import fit
from jstc.train.job import FitResult, Job
from jstc.train.schedule import Schedule

Make = Callable[[], nn.Module]

FEATURES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "lr": 0.01},
    "accumulate": {"accumulate": 3},
    "mixup": {"mixup": 0.4},
    "mixup and cutmix": {"mixup": 0.4, "cutmix": 1.0},
    "clip_norm": {"clip_norm": 0.5},
    "label_smoothing": {"label_smoothing": 0.2},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "float16, adamw, clipped": {"precision": "float16", "optimizer": "adamw", "clip_norm": 1.0},
    "ema": {"ema_decay": 0.8},
    "all": {
        "optimizer": "adamw",
        "mixup": 0.4,
        "cutmix": 1.0,
        "accumulate": 2,
        "ema_decay": 0.8,
        "label_smoothing": 0.1,
        "clip_norm": 1.0,
        "precision": "float16",
    },
}


class Stop(BaseException):
    """Stands for a kill."""


def job(network: nn.Module, split: Any, features: dict[str, Any], **changes: Any) -> Job:
    settings = {key: value for key, value in features.items() if key != "ema_decay"}
    plain = Job(
        network=network,
        split=split,
        settings=TrainSettings.model_validate(
            {"batch_size": 16, "lr": 0.05, "precision": "float32"} | settings
        ),
        schedule=Schedule(base=settings.get("lr", 0.05), total=9, milestones=(0.5,)),
        steps_per_epoch=3,
        seed=1,
        num_classes=3,
        ema_decay=features.get("ema_decay"),
    )
    return dataclasses.replace(plain, **changes)


def train(made: Job, directory: Path, progress: Silent | None = None) -> FitResult:
    return fit(made, directory=directory, progress=progress or Silent(), stage="x")


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(t, second[n]) for n, t in first.items())


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_it_has_an_effect_and_a_cut_off_training_ends_the_same(
    make_network: Make, split: Any, power_cut: Any, tmp_path: Path, features: dict[str, Any]
) -> None:
    plain, whole, first, second = (make_network() for _ in range(4))
    train(job(plain, split, {}), tmp_path / "plain")
    unbroken = train(job(whole, split, features), tmp_path / "a")
    with power_cut(1) as progress:
        train(job(first, split, features), tmp_path / "b", progress)
    resumed = train(job(second, split, features), tmp_path / "b")
    assert equal(state(whole), state(second))
    assert equal(checkpoint.join(**unbroken.optimizer), checkpoint.join(**resumed.optimizer))
    assert not equal(state(whole), state(plain))
    assert unbroken.loss == resumed.loss


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("name", ["ema", "all"])
def test_cut_off_in_the_middle_of_an_epoch_it_ends_the_same(
    make_network: Make, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, batch: int
) -> None:
    whole, first, second = (make_network() for _ in range(3))
    settings = {"checkpoint": CheckpointSettings(every_steps=1)}
    train(job(whole, split, FEATURES[name]), tmp_path / "a")
    plain, batches = split.shuffled, itertools.count()

    def shuffled(*args: Any, **options: Any) -> Any:
        for images in plain(*args, **options):
            if next(batches) == batch:
                raise Stop
            yield images

    with monkeypatch.context() as patch:
        patch.setattr(split, "shuffled", shuffled)
        with pytest.raises(Stop):
            train(job(first, split, FEATURES[name], **settings), tmp_path / "b")
    assert "middle" in checkpoint.load(tmp_path / "b" / "checkpoint.safetensors")[1]
    train(job(second, split, FEATURES[name]), tmp_path / "b")
    assert equal(state(whole), state(second))


def test_adamw_goes_on_with_the_counts_of_a_search(make_network: Make, split: Any, tmp_path: Path) -> None:
    """Averages of zero are nothing yet in a first step, and mean small gradients after 500."""
    network = make_network()
    given = optim.new_state(dict(network.named_parameters()), TrainSettings(optimizer="adamw"))
    given["steps"]["fc.weight"][0] = 500.0
    before = network.fc.weight.detach().clone()
    made = job(network, split, {"optimizer": "adamw", "weight_decay": 0.0}, optimizer=given)
    made = dataclasses.replace(made, schedule=Schedule(base=0.01, total=1), steps_per_epoch=1)
    result = train(made, tmp_path)
    moved = (network.fc.weight.detach() - before).abs().amax(dim=1)
    often = 0.01 * 0.1 / 0.001**0.5 * (1 - 0.999**501) ** 0.5
    assert moved.tolist() == pytest.approx([often, 0.01, 0.01], rel=0.02)
    assert result.optimizer["steps"]["fc.weight"][:, 0].tolist() == [501.0, 1.0, 1.0]


def test_the_averaged_network_is_what_comes_out(make_network: Make, split: Any, tmp_path: Path) -> None:
    """With one step in an epoch, a checkpoint holds the weights after every step."""
    every: list[dict[str, Tensor]] = []

    class Watch(Silent):
        def update(self, done: int, **figures: float) -> None:
            if done:
                every.append(state(network))

    network = make_network()
    made = dataclasses.replace(job(network, split, {"ema_decay": 0.7}), steps_per_epoch=1)
    made = dataclasses.replace(made, schedule=Schedule(base=0.05, total=4))
    fit(made, directory=tmp_path, progress=Watch(), stage="x")
    # The last update comes before the weights are handed over.
    weights = [each["fc.weight"] for each in every[-4:]]
    expected = weights[0]
    for decay, weight in zip((2 / 11, 3 / 12, 4 / 13), weights[1:], strict=True):  # 0.7 comes later
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(network.fc.weight, expected, atol=1e-6)
    assert not torch.equal(network.fc.weight, weights[-1])
    assert network.bn.num_batches_tracked.item() == 4


def test_a_finished_training_gives_the_average_again(make_network: Make, split: Any, tmp_path: Path) -> None:
    done, again = make_network(), make_network()
    for network in (done, again):
        train(job(network, split, {"ema_decay": 0.8}), tmp_path)
    assert equal(state(done), state(again))


def test_the_average_belongs_to_the_training(make_network: Make, split: Any, tmp_path: Path) -> None:
    train(job(make_network(), split, {}), tmp_path)
    with pytest.raises(RunDirectoryError, match="another training \\('ema_decay'"):
        train(job(make_network(), split, {"ema_decay": 0.8}), tmp_path)
