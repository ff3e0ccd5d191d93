"""Small networks and their exported files. Exporting takes seconds, so it is done once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jstc import export

SHAPE = (3, 16, 16)


class SmallNet(nn.Module):
    """Convolution with batch norm whose statistics matter, pooling, linear."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(images))).mean((2, 3)))


def small_net() -> SmallNet:
    torch.manual_seed(0)
    network = SmallNet()
    with torch.no_grad():
        network.train()(torch.randn(32, *SHAPE) * 3 + 1)
    return network.eval()


@pytest.fixture
def network() -> SmallNet:
    return small_net()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    metadata = export.encode_metadata(
        {"labels": ["a", "b", "c", "d", "e"], "input_size": SHAPE, "flops": 1000, "accuracy": 0.5,
         "plan_hash": "123", "mean": None}
    )  # fmt: skip
    export.write_onnx(small_net(), path, shape=SHAPE, opset=18, metadata=metadata)
    return path
