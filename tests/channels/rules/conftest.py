"""What the tests of the rules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from torch.nn import functional as F


@pytest.fixture(scope="session")
def sandwich() -> Callable[..., Any]:
    """`sandwich(toy, middle, last=16, **layers)`: a toy network around something on 16 channels."""

    def make(
        toy: Callable[..., Any], middle: Callable[..., Any], *, last: int = 16, **layers: nn.Module
    ) -> Any:
        """Stem with batch norm, something on 16 channels, and a last convolution from `last` channels."""
        stem = {
            "stem": nn.Conv2d(3, 16, 3, padding=1),
            "norm": nn.BatchNorm2d(16),
            "head": nn.Conv2d(last, 10, 3, padding=1),
        }
        return toy(
            lambda net, x: net.head(middle(net, F.relu(net.norm(net.stem(x))))).mean((2, 3)), **stem, **layers
        )

    return make
