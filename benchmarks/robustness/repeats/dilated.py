"""A small residual network with dilated convolutions, as those for segmentation have, that classifies."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Dilated", "net"]

_WIDTH = 64


class _Block(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTH)
        self.conv2 = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + x).relu()


class Dilated(nn.Module):
    """A stem of stride 2, a block each with dilations of 1, 2 and 4, and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _WIDTH, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(_WIDTH)
        self.blocks = nn.Sequential(_Block(1), _Block(2), _Block(4))
        self.fc = nn.Linear(_WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.blocks(self.norm(self.stem(x)).relu()).mean((2, 3)))
        return out


def net(num_classes: int) -> nn.Module:
    """The network for `num_classes` classes."""
    return Dilated(num_classes)
