"""Networks in their CIFAR form: small images, few channels at the start, no early subsampling.

The ResNets follow He et al., *Deep Residual Learning for Image Recognition* (2015), section 4.2; VGG-16
follows Simonyan & Zisserman (2014), configuration D, with batch norm and one linear layer as classifier.
No forward names a channel count, so that channels can be cut from any of these networks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "BUILDERS",
    "VGG16",
    "CifarResNet",
    "CifarVGG",
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet110",
    "vgg16_bn",
]

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions of VGG-16, by stage."""


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut (option A): subsample, and fill the new channels with zeros.

    The zeros are buffers, not numbers in the forward: whoever cuts channels cuts them as well.
    They are not part of the state dict, because published checkpoints do not have them.
    """

    before: Tensor
    after: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        missing = out_channels - in_channels
        self.register_buffer("before", torch.zeros(missing // 2), persistent=False)
        self.register_buffer("after", torch.zeros(missing - missing // 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, before + C + after, H / stride, W / stride]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.cat([_zeros_like(self.before, x), x, _zeros_like(self.after, x)], 1)


def _zeros_like(padding: Tensor, x: Tensor) -> Tensor:
    n, _, height, width = x.shape
    # The cast does nothing except under autocast, where it keeps the sum in the lower precision.
    return padding.to(x.dtype).view(1, -1, 1, 1).expand(n, -1, height, width)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else PaddedShortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6 n + 2: three stages of n blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int, *, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, 16, 1)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


class CifarVGG(nn.Module):
    """VGG with batch norm, pooled to one pixel before a single linear layer. Needs 32 pixels or more."""

    def __init__(
        self, stages: tuple[tuple[int, ...], ...], *, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for widths in stages:
            for width in widths:
                layers += [_conv3x3(in_channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                in_channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, num_classes]."""
        x = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits


def resnet20(*, num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-20: 0.27 M parameters."""
    return CifarResNet(3, num_classes=num_classes, in_channels=in_channels)


def resnet32(*, num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-32: 0.46 M parameters."""
    return CifarResNet(5, num_classes=num_classes, in_channels=in_channels)


def resnet56(*, num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-56: 0.85 M parameters."""
    return CifarResNet(9, num_classes=num_classes, in_channels=in_channels)


def resnet110(*, num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-110: 1.7 M parameters."""
    return CifarResNet(18, num_classes=num_classes, in_channels=in_channels)


def vgg16_bn(*, num_classes: int = 10, in_channels: int = 3) -> CifarVGG:
    """VGG-16 with batch norm: 14.7 M parameters."""
    return CifarVGG(VGG16, num_classes=num_classes, in_channels=in_channels)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "vgg16_bn": vgg16_bn,
}


def _conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _stage(in_channels: int, out_channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
