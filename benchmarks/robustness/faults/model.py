"""A network of four convolutions, one of them around a residual: small enough to be trained thirty times."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Net", "net"]


class Net(nn.Module):
    """Three groups of channels, one of them tied by the residual; dropout, because it draws numbers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.wide, self.wide_norm = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.join, self.join_norm = nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.last, self.last_norm = nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.1)
        self.classify = nn.Linear(32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores [N, classes] of images [N, 3, H, W]."""
        x = self.stem_norm(self.stem(images)).relu()
        x = (x + self.join_norm(self.join(self.wide_norm(self.wide(x)).relu()))).relu()
        x = self.last_norm(self.last(x)).relu()
        scores: Tensor = self.classify(self.dropout(x.mean((2, 3))))
        return scores


def net(num_classes: int) -> Net:
    """The network for so many classes."""
    return Net(num_classes)
