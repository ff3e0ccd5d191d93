from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from jstc.models.cifar_networks import BUILDERS, PaddedShortcut, resnet20, vgg16_bn


def _flops(model: nn.Module, image: torch.Tensor) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore's tracing of shapes
        from fvcore.nn import FlopCountAnalysis

        counter = FlopCountAnalysis(model.eval(), image)
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(counter.total())


def _params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# fvcore counts one multiply-add as one FLOP, and batch norm and pooling as well
@pytest.mark.parametrize(
    ("name", "params", "flops"),
    [
        ("resnet20", 269_722, 40_931_968),
        ("resnet32", 464_154, 69_472_896),
        ("resnet56", 853_018, 126_554_752),
        ("resnet110", 1_727_962, 254_988_928),
        ("vgg16_bn", 14_724_042, 313_755_136),
    ],
)
def test_parameters_and_flops(name: str, params: int, flops: int) -> None:
    model = BUILDERS[name](num_classes=10)
    assert _params(model) == params
    assert _flops(model, torch.zeros(1, 3, 32, 32)) == flops


@pytest.mark.parametrize(
    ("builder", "side"), [(resnet20, 32), (resnet20, 47), (vgg16_bn, 32), (vgg16_bn, 64)]
)
def test_images_of_other_sizes_channels_and_classes(builder: type, side: int) -> None:
    model = builder(num_classes=7, in_channels=1).eval()
    assert model(torch.zeros(2, 1, side, side)).shape == (2, 7)


def test_names_are_those_of_published_checkpoints() -> None:
    names = set(resnet20().state_dict())
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.running_mean"} <= names
    assert {"layer3.2.conv2.weight", "linear.weight", "linear.bias"} <= names
    assert len(names) == 6 * 19 + 2
    assert not [name for name in names if "shortcut" in name]


def test_the_shortcut_subsamples_and_pads_on_both_sides() -> None:
    x = torch.arange(2 * 2 * 4 * 4.0).view(2, 2, 4, 4) + 1
    out = PaddedShortcut(2, 5, 2)(x)
    assert out.shape == (2, 5, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3, 4]].any()


def test_the_shortcut_follows_its_buffers() -> None:
    shortcut = PaddedShortcut(4, 8, 2)
    shortcut.before = shortcut.before[:0]
    shortcut.after = shortcut.after[:1]
    assert shortcut(torch.ones(1, 3, 4, 4)).shape == (1, 4, 2, 2)


def test_the_shortcut_keeps_a_lower_precision() -> None:
    assert PaddedShortcut(4, 8, 2)(torch.ones(1, 4, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_convolutions_keep_the_variance_of_signals() -> None:
    torch.manual_seed(0)
    weight = resnet20().layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = resnet20()
    nn.functional.cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.arange(4)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
