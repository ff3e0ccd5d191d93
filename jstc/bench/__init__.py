"""Latency in onnxruntime, compared fairly: interleaved runs, paired ratios, the machine named. No torch."""

from __future__ import annotations

from jstc.bench.compare import BenchRow, compare
from jstc.bench.environment import environment

__all__ = ["BenchRow", "compare", "environment"]
