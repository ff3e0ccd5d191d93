"""Kernels through onnxruntime: every point gets a time. What that is, no test asks."""

from __future__ import annotations

import math

import pytest

from jstc.latency import measure
from jstc.latency.kernels import Kernel
from jstc.latency.measure import build

KERNELS = {
    Kernel("conv", (3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 9, 9)): [(3, 8), (8, 8), (6, 10)],
    Kernel("grouped", (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 6, 6)): [(4, 8), (8, 8)],
    Kernel("depthwise", (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 6, 6)): [(8,), (16,)],
    Kernel("pool", (3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 0, 8, 8)): [(8,), (5,)],
    Kernel("pool", (2, 2, 2, 2, 0, 0, 0, 0, 1, 1, 1, 8, 8)): [(8,)],
    Kernel("gemm", (4,)): [(8, 16), (3, 5)],
    Kernel("move"): [(16,), (64,)],
}


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.key)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_kernel_is_measured(kernel, batch):
    points = KERNELS[kernel]
    found = measure.measure(kernel, points, provider="cpu", batch=batch, threads=1)
    assert len(found) == len(points)
    assert all(0 < ms < math.inf for ms in found)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.key)
def test_by_the_clock_as_on_a_gpu(kernel, tmp_path):
    point = KERNELS[kernel][0]
    ms = measure._clocked(kernel, point, tmp_path / "k.onnx", provider="cpu", batch=1)
    assert 0 < ms < math.inf


def test_models_stay_small():
    kernel = Kernel("conv", (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7, 7))
    points = [(512, 512)] * 50 + [(8, 8)] * 100
    parts = list(measure._parts(kernel, points, 64))
    assert [point for part in parts for point in part] == points
    assert max(map(len, parts)) == 64
    assert all(sum(4 * 9 * a * b for a, b in part) < 2.1e8 for part in parts)


def test_the_batch_is_in_the_inputs():
    _, inputs = build(Kernel("conv", (1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 5, 6)), [(3, 4)], batch=7)
    assert list(inputs.values()) == [(7, 3, 5, 6)]
