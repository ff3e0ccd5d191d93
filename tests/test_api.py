"""`jstc.search` from Python: what is found wrong before training, and that settings reach the analysis."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import jstc
from jstc.api import GivenWorkspace
from jstc.errors import BudgetError, DataError, InputError, ModelError
from jstc.recipe import loading

IMAGES = torch.zeros(12, 3, 8, 8)


def network():
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(8, 4))


def data(most=3):
    return TensorDataset(IMAGES, torch.arange(12) % most + 1)


def search(model, path, train=None, val=None, settings=()):
    jstc.search(model, train or data(), val or data(), flops=0.5, out=path / "r", settings=settings)


@pytest.mark.parametrize(("which", "name"), [("train", "train_data"), ("val", "val_data")])
def test_a_label_beyond_the_scores_is_found_before_training(tmp_path, which, name):
    with pytest.raises(DataError, match=rf"{name} has a label 7; the network gives 4 scores, .* 0 to 3"):
        search(network(), tmp_path, **{which: data(7)})
    assert not (tmp_path / "r").exists()


def test_a_network_that_gives_no_scores(tmp_path):
    with pytest.raises(ModelError, match=r"2 images gave \[2, 4, 6, 6\]; expected class scores"):
        search(nn.Conv2d(3, 4, 3), tmp_path)


@pytest.mark.parametrize("setting", ["channels.ignore=['9']", "channels.groups.9.min_width=2"])
def test_patterns_that_match_nothing(tmp_path, setting):
    with pytest.raises(InputError, match="'9' matches no"):
        search(network(), tmp_path, settings=[setting])
    assert not (tmp_path / "r").exists()


def test_what_is_to_be_ignored_stays_whole():
    flags = {"model": "m", "dataset": "given", "flops": 0.5}
    recipe = loading.from_flags(flags, ["channels.ignore=['0']", "device=cpu"])
    channels = GivenWorkspace(recipe, network(), data(), data()).channels
    assert [group.name for group in channels.groups] == ["2"]
    assert "ignored by the pattern '0'" in {frozen.reason for frozen in channels.frozen}


def test_several_budgets_are_refused(tmp_path):
    with pytest.raises(BudgetError, match=r"takes one budget, .*`jstc search` or in a recipe"):
        jstc.search(network(), data(), data(), flops=[0.5, 0.7], out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
