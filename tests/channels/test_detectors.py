"""torchvision's segmentation networks, cut whole, and its detectors, of which the backbone is cut."""

from __future__ import annotations

import copy

import pytest
import torch

from jstc import models
from jstc.channels import analyse
from jstc.runs.stages.train import count

SEGMENTATION = ["fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"]
DETECTION = [
    "fasterrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "fcos_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
]


def built(name, *, side, device="cpu"):
    spec = models.spec(name, num_classes=2, in_channels=3, height=side, width=side)
    return models.build(spec, device=device).eval()


def analysed(name, model, side):
    device = next(model.parameters()).device
    return analyse(model, torch.zeros(1, 3, side, side, device=device), part=models.part(name))


def apart(found, expected):
    assert found.keys() == expected.keys()
    return max(
        float((found[k] - expected[k]).abs().max() / expected[k].abs().max().clamp_min(1e-9))
        for k in expected
    )


@pytest.mark.parametrize("name", SEGMENTATION + DETECTION)
def test_all_but_the_edges_can_be_cut(name):
    side = models.image_side(name)
    channels = analysed(name, built(name, side=side, device="meta"), side)
    assert channels.coverage > 0.98 and len(channels.groups) > 15
    assert not channels.unknown_operations
    assert {f.reason for f in channels.frozen} == {"network input", "network output"}
    assert channels.cost(channels.random_plan(flops=0.5, seed=0)).flops <= channels.cost().flops / 2


@pytest.mark.parametrize("name", SEGMENTATION)
def test_a_segmentation_network_is_cut_exactly(name):
    model = built(name, side=64).double()
    channels = analysed(name, model, 64)
    plan = channels.random_plan(flops=0.3, seed=0)
    small, masked = channels.slice(model, plan), copy.deepcopy(model)
    channels.mask(masked, plan)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        assert apart(small(images), masked(images)) < 1e-9
    cost = channels.cost(plan)
    assert (cost.flops, cost.params) == count(Only(small, "out"), images)


class Only(torch.nn.Module):
    """One entry of a network's outputs."""

    def __init__(self, network, key):
        super().__init__()
        self.network, self.key = network, key

    def forward(self, x):
        return self.network(x)[self.key]


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_resnet50_fpn"])
def test_a_detector_with_a_cut_backbone_detects_as_the_masked_one(name):
    model = built(name, side=64).double()
    model.transform.min_size, model.transform.max_size = (64,), 64
    model.transform.fixed_size = None
    side = 320 if name.startswith("ssd") else 64
    channels = analysed(name, model, side)
    plan = channels.random_plan(flops=0.3, seed=0)
    small, masked = channels.slice(model, plan), copy.deepcopy(model)
    channels.mask(masked, plan)
    images = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        assert apart(small.backbone(images), masked.backbone(images)) < 1e-9
        found, expected = (net([images[0]])[0] for net in (small, masked))
    assert torch.allclose(found["boxes"], expected["boxes"])
    assert channels.cost(plan).params == sum(p.numel() for p in small.parameters())
    assert channels.cost(plan).flops == count(small.backbone, images)[0]
