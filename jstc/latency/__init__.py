"""Latency of any plan, predicted from a table of onnxruntime's times per layer shape on this machine."""

from __future__ import annotations

from jstc.latency.table import Calibration, LatencyModel, Setting, Table

__all__ = ["Calibration", "LatencyModel", "Setting", "Table"]
