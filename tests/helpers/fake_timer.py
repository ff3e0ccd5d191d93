"""A machine whose times are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jstc.latency.kernels import Kernel

__all__ = ["FakeTimer"]


class FakeTimer:
    """Takes `block` channels at once: a stair of that width; remembers what it was asked."""

    def __init__(self, block: int = 16) -> None:
        self.block = block
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def __call__(self, kernel: Kernel, points: Sequence[tuple[int, ...]]) -> list[float]:
        self.asked += [(kernel.key, point) for point in points]
        return [self.time(kernel, point) for point in points]

    def time(self, kernel: Kernel, widths: Sequence[int]) -> float:
        if kernel.kind == "move":
            return 1e-6 * widths[0]
        stairs = math.ceil(widths[-1] / self.block) * self.block
        return 1e-5 * math.prod(widths[:-1]) * stairs
