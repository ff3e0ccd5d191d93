"""Networks of the cases that are no names of the product: narrower VGGs, and MobileNetV2 in its CIFAR form.

Named `benchmarks.accuracy.networks:vgg16_bn_quarter`, as a user names a network of his own.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import MobileNetV2

from jstc.models import cifar_networks
from jstc.models.cifar_networks import CifarVGG

__all__ = ["mobilenet_v2_half", "vgg16_bn_half", "vgg16_bn_quarter"]

_MOBILE_STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, blocks and stride of each stage: the second one's stride is 1 instead of 2."""


def vgg16_bn_half(num_classes: int = 10, in_channels: int = 3) -> CifarVGG:
    """VGG-16-BN with half of all channels: 78 MFLOPs at 32 pixels."""
    return _vgg(2, num_classes, in_channels)


def vgg16_bn_quarter(num_classes: int = 10, in_channels: int = 3) -> CifarVGG:
    """VGG-16-BN with a quarter of all channels: 20 MFLOPs at 32 pixels."""
    return _vgg(4, num_classes, in_channels)


def _vgg(divisor: int, num_classes: int, in_channels: int) -> CifarVGG:
    stages = tuple(tuple(width // divisor for width in stage) for stage in cifar_networks.VGG16)
    return CifarVGG(stages, num_classes=num_classes, in_channels=in_channels)


def mobilenet_v2_half(num_classes: int = 10) -> nn.Module:
    """torchvision's MobileNetV2 of half width for small images: stem and second stage do not subsample."""
    settings = [list(stage) for stage in _MOBILE_STAGES]
    network: nn.Module = MobileNetV2(
        num_classes=num_classes, width_mult=0.5, inverted_residual_setting=settings, dropout=0.0
    )
    stem = network.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    return network
