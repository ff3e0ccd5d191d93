"""Latency in onnxruntime, compared fairly: interleaved runs, paired ratios, the machine named. No torch."""

from __future__ import annotations

from jstc.ort.compare_files import compare, measure
from jstc.ort.machine import busy, environment
from jstc.ort.rows import BenchRow, Comparison, Skipped
from jstc.ort.timing import Facts

__all__ = ["BenchRow", "Comparison", "Facts", "Skipped", "busy", "compare", "environment", "measure"]
