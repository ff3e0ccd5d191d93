"""A summary as a run leaves it, for tests to spoil."""

from __future__ import annotations

import copy
from typing import Any

import pytest

MACHINE = {"cpu": "a CPU", "cores": 2, "gpus": [], "packages": {"onnxruntime": "1.31.0"}}


def _file(precision: str, accuracy: float, difference: float, agreement: float, size: int) -> dict[str, Any]:
    name = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
    return {"file": f"export/{name}", "precision": precision, "accuracy": accuracy,
            "max_abs_diff": difference, "top1_agreement": agreement, "bytes": size}  # fmt: skip


def _timing(file: str, batch: int, speedup: float) -> dict[str, Any]:
    return {"file": file, "provider": "cpu", "batch": batch, "median_ms": 10 / speedup, "p95_ms": 12.0,
            "speedup_vs_target": speedup, "ratio_low": speedup * 0.99, "ratio_high": speedup * 1.01,
            "verdict": "target" if "target" in file else "gain"}  # fmt: skip


SUMMARY: dict[str, Any] = {
    "schema": 1, "model": "resnet20", "dataset": "digits", "seed": 0,
    "budget": {"metric": "flops", "limit": 5_116_736, "share": 0.5},
    "target": {"flops": 10_233_472, "params": 269_722, "accuracy": 0.99},
    "slim": {"flops": 5_087_670, "params": 149_982, "accuracy": 0.985, "max_abs_diff_fold": 0.0},
    "onnx": [_file("fp32", 0.985, 2e-6, 1.0, 611_245), _file("int8", 0.98, 0.3, 0.99, 180_000)],
    "bench": [_timing(f, b, s) for b in (1, 8) for f, s in
              (("bench/target.onnx", 1.0), ("export/model.onnx", 1.8), ("export/model.int8.onnx", 2.4))],
    "environment": MACHINE,
}  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    return copy.deepcopy(SUMMARY)


@pytest.fixture
def sweep() -> dict[str, Any]:
    """Two budgets in one run."""
    whole = copy.deepcopy(SUMMARY)
    one = {key: whole.pop(key) for key in ("budget", "slim", "onnx", "bench")}
    return {**whole, "sweep": [{"label": label, **copy.deepcopy(one)} for label in ("flops0.5", "flops0.3")]}
