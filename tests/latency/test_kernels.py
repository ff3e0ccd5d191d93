"""Networks as kernels: what is fused costs nothing, and every width follows the plan."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jstc.channels import analyse
from jstc.latency.kernels import Kernel, layers


def kinds(network, shape=(1, 3, 16, 16)):
    return [layer.kernel.kind for layer in layers(analyse(network, torch.zeros(shape)).executions, 1)]


def test_norms_activations_and_sums_are_part_of_the_convolutions(channels):
    found = layers(channels.executions, 1)
    expected = ["conv", "pool", "conv", "depthwise", "conv", "conv", "move", "move", "gemm"]
    assert [layer.kernel.kind for layer in found] == expected
    assert found[-3].passes == 2.0  # silu: a sigmoid and a product


def test_widths_are_those_of_the_plan(channels):
    plan = channels.random_plan(flops=0.4, seed=3)
    counts = dict(zip(channels.widths, channels.counts(plan).tolist(), strict=True))
    sizes = channels.executions.sizes(channels.counts(plan))
    stem, pool, wide, each, join, last, _, _, fc = (
        layer.widths(sizes) for layer in layers(channels.executions, 1)
    )
    a, b, c = counts["stem"], counts["wide"], counts["last"]
    assert (stem, pool, wide, each, join, last, fc) == (
        (3, a), (a,), (a, b), (b,), (b, a), (a, c), (c, 5)
    )  # fmt: skip


def test_moved_elements_and_rows_grow_with_the_batch(channels):
    sizes = channels.executions.sizes(channels.full_counts)
    one, eight = (layers(channels.executions, batch) for batch in (1, 8))
    assert eight[-3].widths(sizes)[0] == 8 * one[-3].widths(sizes)[0] == 8 * 64 * 3 * 3
    assert (one[-1].kernel.settings, eight[-1].kernel.settings) == ((1,), (8,))


def test_the_geometry_of_a_convolution_is_in_its_kernel(channels):
    kernels = [layer.kernel for layer in layers(channels.executions, 1)]
    assert kernels[0] == Kernel("conv", (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 16, 16))
    assert kernels[5] == Kernel("conv", (3, 3, 2, 2, 0, 0, 0, 0, 1, 1, 1, 8, 8))  # "valid"
    assert all(Kernel.from_key(kernel.key) == kernel for kernel in kernels)


def test_a_norm_and_an_activation_without_a_convolution_cost_something():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 8, 3, padding="same"), nn.Hardswish())
    assert kinds(nn.Sequential(network, nn.Conv2d(8, 4, 1))) == ["move", "move", "conv", "move", "conv"]


def test_what_does_not_depend_on_the_images_costs_nothing():
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 3, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight * 2 - self.weight.mean())

    assert kinds(Standardised()) == ["conv"]


@pytest.mark.parametrize("kind", [nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 8, 3, groups=2)])
def test_other_convolutions_are_timed_as_something(kind):
    found = kinds(nn.Sequential(nn.Conv2d(3, 8, 1), kind))
    assert found[1] == ("gemm" if isinstance(kind, nn.ConvTranspose2d) else "grouped")
