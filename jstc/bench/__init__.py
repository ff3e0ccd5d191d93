"""Latency in onnxruntime, compared fairly: interleaved runs, paired ratios, the machine named. No torch."""

from __future__ import annotations

from jstc.bench.compare import compare, measure
from jstc.bench.environment import busy, environment
from jstc.bench.rows import BenchRow, Comparison, Skipped
from jstc.bench.session import Facts

__all__ = ["BenchRow", "Comparison", "Facts", "Skipped", "busy", "compare", "environment", "measure"]
