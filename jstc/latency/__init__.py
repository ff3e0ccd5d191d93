"""Latency of any plan, predicted from a table of onnxruntime's times per layer shape on this machine."""

from __future__ import annotations

from jstc.latency.model import Calibration, LatencyModel
from jstc.latency.table import Setting, Table

__all__ = ["Calibration", "LatencyModel", "Setting", "Table"]
