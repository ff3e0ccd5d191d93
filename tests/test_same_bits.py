"""The same seed, machine and threads give the same bits, twice, and weights of a sane size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.robustness.repeats.__main__ import DILATED, main, soil
from jstc import models
from jstc.core.progress import Silent
from jstc.data.given import GivenData
from jstc.finetune import train_baseline
from jstc.recipe.schema import InputSettings, Recipe
from jstc.soundness import require_sane, unreached

CLASSES, BATCH = 4, 16

# Maps of one value, and dilations larger than the map: where kernels have been wrong.
NETWORKS = [("resnet20", 2), ("mobilenet_v3_small", 8), ("shufflenet_v2_x0_5", 16), (DILATED, 16)]


def recipe(precision: str) -> Recipe:
    document = {
        "model": "net.py:net",
        "dataset": "digits",
        "flops": 0.5,
        "train": {"batch_size": BATCH, "lr": 0.05, "precision": precision, "warmup_epochs": 0},
        "search": {"rounds": 1, "steps_per_round": 1},
        "finetune": {"epochs": 1, "steps_per_epoch": 2},
    }
    return Recipe.model_validate(document)


def trained(name: str, pixels: int, precision: str, folder: Path) -> dict[str, Tensor]:
    """All tensors that three steps of `name` leave; they are sane."""
    soil()
    random = torch.Generator().manual_seed(0)
    images = torch.randn(4 * BATCH, 3, pixels, pixels, generator=random)
    data = TensorDataset(images, torch.arange(4 * BATCH) % CLASSES)
    given, settings = GivenData.of(data, data), InputSettings()
    info = given.info([str(number) for number in range(CLASSES)], settings)
    dataset = given.dataset(info, settings, torch.device("cpu"))
    spec = models.spec(name, num_classes=CLASSES, in_channels=3, height=pixels, width=pixels)
    target = models.build(spec, seed=0)
    train_baseline(target, dataset, recipe=recipe(precision), directory=folder, progress=Silent())
    learned = models.build(spec, seed=0)
    learned.load_state_dict(load_file(folder / "model.safetensors"))
    require_sane(learned, initial=target, unreached=unreached(target, spec.input_shape))
    assert max(parameter.abs().max().item() for parameter in learned.parameters()) < 100
    return {
        f"{file}:{key}": tensor
        for file in ("checkpoint.safetensors", "model.safetensors")
        for key, tensor in load_file(folder / file).items()
    }


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(("name", "pixels"), NETWORKS, ids=lambda value: str(value).rpartition(":")[2])
def test_a_training_twice(tmp_path: Path, name: str, pixels: int, precision: str) -> None:
    first = trained(name, pixels, precision, tmp_path / "first")
    second = trained(name, pixels, precision, tmp_path / "second")
    assert len(first) > 40 and first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [8, 16, 32, 64])
def test_whole_runs_twice(pixels: int) -> None:
    assert main(["--pixels", str(pixels)]) == 0
