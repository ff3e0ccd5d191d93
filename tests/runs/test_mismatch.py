"""What given weights seem to expect otherwise: every fault planted is found, and sound weights raise none."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.core.progress import Silent
from jstc.data import DataInfo, Dataset
from jstc.data.in_memory import dataset_in_memory
from jstc.report.accuracies import framed, mismatch_sentence, warnings
from jstc.runs.alternatives import class_orders, new_classifier
from jstc.runs.mismatch import Mismatch, Scored, _surely_better, find
from jstc.train.device import Numerics
from jstc.train.loop import evaluate

CPU = torch.device("cpu")
CLASSES = 12  # two patterns, each in red and in blue, each of three brightnesses
MEAN, STD = (0.45, 0.4, 0.35), (0.25, 0.22, 0.27)
INFO = DataInfo("patterns", tuple("abcdefghijkl"), 3, 8, 8, MEAN, STD)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.deeper = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.deeper_norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        found = torch.relu(self.norm(self.conv(images)))
        found = F.max_pool2d(torch.relu(self.deeper_norm(self.deeper(found))), 2)
        scores: Tensor = self.head(found.flatten(1))
        return scores


def pictures(number: int, seed: int, *, mistaken: float) -> tuple[Tensor, Tensor]:
    """uint8 [number, 3, 8, 8] and their classes, of which a part is wrong."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(number) % CLASSES
    tints = torch.tensor([[1.0, 0.6, 0.2], [0.2, 0.6, 1.0]])
    bright = torch.tensor([0.35, 0.6, 0.9])[labels // 4]
    pixels = patterns[labels % 2][:, None] * tints[labels // 2 % 2][:, :, None, None]
    pixels = bright[:, None, None, None] * pixels + 0.1 * torch.randn(number, 3, 8, 8, generator=generator)
    random = torch.randint(CLASSES, (number,), generator=generator)
    wrong = torch.rand(number, generator=generator) < mistaken
    return (255 * pixels.clamp(0, 1)).to(torch.uint8), torch.where(wrong, random, labels)


def made(mistaken: float) -> Dataset:
    train, test = pictures(1200, 1, mistaken=mistaken), pictures(600, 2, mistaken=mistaken)
    return dataset_in_memory(INFO, train, test, augmentation=None, val_fraction=0.4, seed=0, device=CPU)


def learnt(dataset: Dataset) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(6):
        for images, labels in dataset.train.ordered(60):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Data of which a fifth of the labels is wrong: a sound network has about 83 %."""
    return made(0.2)


@pytest.fixture(scope="module")
def sound(dataset: Dataset) -> Small:
    return learnt(dataset)


def scored(network: nn.Module, dataset: Dataset) -> Scored:
    found = evaluate(network, dataset.test.ordered(60))
    return Scored(found.accuracy, 1 / CLASSES, found.images)


def found_in(network: nn.Module, dataset: Dataset) -> Mismatch | None:
    how = {"batch_size": 50, "numerics": Numerics(), "progress": Silent()}
    return find(network, dataset, scored(network, dataset), **how)  # type: ignore[arg-type]


class Expecting(nn.Module):
    """The network as if it had been trained on images that were prepared otherwise."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, bgr: bool = False):
        super().__init__()
        self.network, self.mean, self.std, self.bgr = network, mean, std, bgr

    def forward(self, images: Tensor) -> Tensor:
        own, theirs = ([figures(part) for part in pair] for pair in ((MEAN, STD), (self.mean, self.std)))
        pixels = images * theirs[1] + theirs[0]
        pixels = pixels.flip(1) if self.bgr else pixels
        scores: Tensor = self.network((pixels - own[0]) / own[1])
        return scores


def figures(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def test_sound_weights_raise_no_alarm(sound: Small, dataset: Dataset) -> None:
    assert 0.75 < scored(sound, dataset).accuracy < 0.9
    assert found_in(sound, dataset) is None


def test_weights_that_are_nearly_perfect_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = made(0.0)
    network = learnt(clean)
    assert scored(network, clean).accuracy > 0.97
    monkeypatch.setattr("jstc.runs.mismatch.alternatives", lambda *_, **__: pytest.fail("tried"))
    assert found_in(network, clean) is None


@pytest.mark.parametrize("seed", range(4))
def test_weights_that_are_merely_poor_raise_no_alarm(sound: Small, dataset: Dataset, seed: int) -> None:
    """Noise in the last layer, which no preprocessing makes up for."""
    network = copy.deepcopy(sound)
    weight = network.head.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    weight.data += (0.5 + 0.5 * seed) * weight.data.std() * noise
    assert found_in(network, dataset) is None


NORMALISATIONS = {
    "ImageNet's mean and standard deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean and standard deviation 0.5": ((0.5,) * 3, (0.5,) * 3),
    "pixels from 0 to 1, not normalised": ((0.0,) * 3, (1.0,) * 3),
    "pixels from 0 to 255, not normalised": ((0.0,) * 3, (1 / 255,) * 3),
}


@pytest.mark.parametrize("what", list(NORMALISATIONS)[1:])
def test_another_normalisation_is_named(sound: Small, dataset: Dataset, what: str) -> None:
    mean, std = NORMALISATIONS[what]
    found = found_in(Expecting(sound, mean, std), dataset)
    assert found is not None
    assert (found.kind, found.what) == ("preprocessing", what)
    assert found.settings == {"input.mean": list(mean), "input.std": [round(part, 6) for part in std]}
    assert (found.accuracy or 0) - (found.as_given or 0) > 0.2
    assert (found.images or 0) > 100


def test_a_search_validation_split_of_few_images_is_no_hindrance(sound: Small, dataset: Dataset) -> None:
    few = dataclasses.replace(dataset, search_val=None)  # type: ignore[arg-type]
    found = found_in(Expecting(sound, (0.0,) * 3, (1.0,) * 3), few)
    assert found is not None
    assert found.kind == "preprocessing"


def test_imagenets_normalisation_is_named(sound: Small, dataset: Dataset) -> None:
    """The run prepares images as [0, 1], the weights know ImageNet's."""
    info = dataclasses.replace(INFO, mean=(0.0,) * 3, std=(1.0,) * 3)
    names = ("train", "search_val", "train_full", "test")
    parts = {name: dataclasses.replace(getattr(dataset, name), info=info) for name in names}
    mean, std = NORMALISATIONS["ImageNet's mean and standard deviation"]
    found = found_in(Expecting(sound, mean, std), dataclasses.replace(dataset, info=info, **parts))
    assert found is not None
    assert found.what == "ImageNet's mean and standard deviation"


@pytest.mark.parametrize(
    ("what", "mean", "std"),
    [
        ("channels in the order blue, green, red", MEAN, STD),
        (
            "pixels from 0 to 1, not normalised, channels in the order blue, green, red",
            (0.0,) * 3,
            (1.0,) * 3,
        ),
    ],
)
def test_channels_in_the_other_order_are_named(
    sound: Small, dataset: Dataset, what: str, mean: Sequence[float], std: Sequence[float]
) -> None:
    found = found_in(Expecting(sound, mean, std, bgr=True), dataset)
    assert found is not None
    assert (found.kind, found.what, found.settings) == ("preprocessing", what, {})


@pytest.mark.parametrize("untouched", [True, False])
def test_statistics_that_are_not_the_weights_own_are_found(
    sound: Small, dataset: Dataset, untouched: bool
) -> None:
    network = copy.deepcopy(sound)
    for norm in (network.norm, network.deeper_norm):
        norm.reset_running_stats()
        if not untouched:
            norm.running_mean += torch.linspace(-2, 2, 16)  # type: ignore[operator]
    found = found_in(network, dataset)
    assert found is not None
    assert found.kind == "statistics"
    assert bool(found.what) is untouched
    assert network.norm.num_batches_tracked == 0  # nothing is changed by looking


def test_another_order_of_classes_is_found(sound: Small, dataset: Dataset) -> None:
    network = copy.deepcopy(sound)
    order = torch.tensor([2, 0, 1, *range(4, CLASSES), 3])  # output i is class order[i]
    network.head.weight.data, network.head.bias.data = sound.head.weight[order], sound.head.bias[order]
    found = found_in(network, dataset)
    assert found is not None
    assert (found.kind, found.what) == (
        "classes",
        "12 of 12 classes have the place of another, such as 'c' that of 'a'",
    )
    assert (found.accuracy or 0) > 0.7


@pytest.mark.parametrize("make", [nn.Linear.reset_parameters, lambda layer: nn.init.zeros_(layer.bias)])
def test_a_classifier_that_nothing_has_trained_is_named(
    sound: Small, dataset: Dataset, make: Callable[[nn.Linear], object]
) -> None:
    network = copy.deepcopy(sound)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        nn.init.normal_(network.head.weight, std=0.01)
        make(network.head)
    found = found_in(network, dataset)
    assert found is not None
    assert (found.kind, found.what, found.accuracy) == ("classifier", "head", None)
    assert new_classifier(sound, CLASSES) is None


def test_names_sorted_otherwise_are_told_with_few_images_of_each() -> None:
    labels = [str(number) for number in range(1, 31)]  # the data set's order: by number
    by_text = sorted(labels)
    right = torch.arange(60) % 30
    named = torch.tensor([by_text.index(labels[label]) for label in right.tolist()])
    first = next(iter(class_orders(labels, named, right)))
    assert first.what == "their names sorted as text"
    assert bool((first.class_of[named] == right).all())


@pytest.mark.parametrize(
    ("gained", "lost", "sure"), [(30, 0, True), (30, 20, False), (9, 0, False), (12, 0, True), (60, 25, True)]
)
def test_better_beyond_the_sampling_error_of_the_same_images(gained: int, lost: int, sure: bool) -> None:
    new, old = torch.zeros(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)
    new[:gained], old[-lost:] = True, lost > 0
    assert _surely_better(new, old) is sure


SCORE = {"accuracy": 0.5, "chance": 0.1, "test_images": 1000, "loss": 1.0, "mismatch": None}


def test_nothing_is_said_of_what_seems_right() -> None:
    assert framed(warnings(SCORE)) == []


def test_at_chance_nobody_can_miss_it() -> None:
    lines = framed(warnings(SCORE | {"accuracy": 0.102}))
    assert lines[1].startswith("!!!!") and "WARNING" in lines[1]
    assert all(len(line) <= 78 for line in lines)
    text = " ".join(line.removeprefix("! ") for line in lines)
    assert "is at chance: 10.20 % ±2.0, guessing reaches 10.00 %." in text
    assert "Nothing was changed" in text


def test_the_recipe_keys_are_told() -> None:
    found = Mismatch("preprocessing", "x", {"input.mean": [0.5], "input.std": [0.25]}, 0.9, 0.1, 384)
    told = mismatch_sentence(found.to_dict())
    assert told.endswith(
        "with x, 90.00 % of 384 training images are right, as they come 10.00 %. A recipe says so with "
        "input: {mean: [0.5], std: [0.25]}."
    )
