"""A part of a network: cut under the names of the whole, which keeps working around it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import jstc
from jstc.channels.trace.ids import named_tensors
from jstc.errors import InputError


class Detector(nn.Module):
    """A backbone whose features are used in a way that no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict(
            {"net": nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))}
        )
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, images):
        features = [self.body["net"](image[None]) for image in images]
        scores = torch.cat([self.head(f).flatten(2)[0] for f in features], 1)
        return scores[:, scores.amax(0) > 0.0].tolist()


@pytest.fixture
def detector():
    model = Detector().double().eval()
    return model, jstc.analyse(model, torch.randn(1, 3, 8, 8).double(), part="body.net")


def test_names_are_those_of_the_whole(detector):
    _, channels = detector
    assert [(g.name, g.width, g.layers) for g in channels.groups] == [
        ("body.net.0", 8, ("body.net.0", "body.net.1", "body.net.3"))
    ]
    assert {(f.layer, f.dim, f.reason) for f in channels.frozen} == {
        ("body.net.0", 1, "network input"),
        ("body.net.3", 0, "network output"),
    }


def test_the_whole_is_cut_masked_and_mapped_back(detector):
    model, channels = detector
    plan = channels.random_plan(flops=0.5, seed=0)
    small, masked = channels.slice(model, plan), copy.deepcopy(model)
    assert type(small) is Detector and small.body["net"][0].out_channels < 8
    channels.mask(masked, plan)
    images = [torch.randn(3, 8, 8).double(), torch.randn(3, 9, 9).double()]
    assert torch.allclose(torch.tensor(small(images)), torch.tensor(masked(images)))
    before = copy.deepcopy(model.state_dict())
    channels.map_back(small, model, plan)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    for _, tensor in named_tensors(small):
        tensor.data.add_(1)
    channels.map_back(small, model, plan)
    assert torch.equal(model.head.weight, before["head.weight"] + 1)


def test_parameters_are_those_of_the_whole_and_flops_of_the_part(detector):
    model, channels = detector
    plan = channels.random_plan(flops=0.5, seed=0)
    small = channels.slice(model, plan)
    alone = jstc.analyse(small.body["net"], torch.randn(1, 3, 8, 8).double())
    assert channels.cost(plan).params == sum(p.numel() for p in small.parameters())
    assert channels.cost(plan).flops == alone.cost().flops


def test_gates_work_on_the_whole(detector):
    model, channels = detector
    plan = channels.full_plan
    gated = channels.gated(channels.slice(model, plan), plan, {"body.net.0": torch.full((8,), 0.5)}).double()
    images = [torch.randn(3, 8, 8).double()]
    assert gated(images) != model(images)
    assert channels.magnitude(model)["body.net.0"].shape == (8,)


def test_the_model_and_its_mode_are_left_alone():
    model = Detector().train()
    model.body.eval()
    before = [m.training for m in model.modules()]
    jstc.analyse(model, torch.randn(1, 3, 8, 8), part="body.net")
    assert [m.training for m in model.modules()] == before


def test_what_is_shared_with_the_rest_stays_whole():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(8, 12, bias=False)
            self.encoder = nn.Sequential(nn.Linear(8, 12, bias=False), nn.ReLU(), nn.Linear(12, 6))
            self.encoder[0].weight = self.decoder.weight

        def forward(self, x):
            return self.decoder(x), F.relu(self.encoder(x))

    model = Tied()
    channels = jstc.analyse(model, torch.randn(1, 8), part="encoder")
    assert channels.groups == ()
    assert "shared with a layer outside the part" in {f.reason for f in channels.frozen}
    assert channels.slice(model, channels.full_plan)(torch.randn(2, 8))[0].shape == (2, 12)


def test_a_part_that_is_not_there():
    with pytest.raises(InputError, match=r"no module 'body.nett'; there are such as body.net"):
        jstc.analyse(Detector(), torch.randn(1, 3, 8, 8), part="body.nett")
