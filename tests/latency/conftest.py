"""A small network, and timers that know what a kernel takes: no test depends on a real time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap, analyse
from jstc.core.progress import Silent
from jstc.latency import LatencyModel, Setting, Table
from tests.helpers.fake_timer import FakeTimer

SETTING = Setting("cpu", 1, 0, "a processor", "1.0")


class SmallNet(nn.Module):
    """Groups: stem with join (32 channels, tied by the sum), wide (64), last (64, depthwise in between)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.wide, self.wide_bn = nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64)
        self.each, self.each_bn = nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.BatchNorm2d(64)
        self.join, self.join_bn = nn.Conv2d(64, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.last = nn.Conv2d(32, 64, 3, stride=2, padding="valid")
        self.fc = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.stem_bn(self.stem(images)).relu_())
        y = self.each_bn(self.each(self.wide_bn(self.wide(x)).relu())).relu()
        x = (x + self.join_bn(self.join(y))).relu()
        x = nn.functional.silu(self.last(x))
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="session")
def channels() -> ChannelMap:
    return analyse(SmallNet(), torch.zeros(1, 3, 16, 16))


@pytest.fixture
def timer() -> FakeTimer:
    return FakeTimer()


@pytest.fixture
def table(tmp_path: Path, timer: FakeTimer) -> Table:
    return Table(SETTING, timer=timer, path=tmp_path / "table.json")


@pytest.fixture
def model(channels: ChannelMap, table: Table) -> LatencyModel:
    return LatencyModel.measured(channels.executions, table, full=channels.full_counts, progress=Silent())


@pytest.fixture(scope="session")
def setting() -> Setting:
    return SETTING
