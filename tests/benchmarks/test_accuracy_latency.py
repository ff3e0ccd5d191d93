"""The widths of results become networks that onnxruntime can time."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks.accuracy import speed as accuracy_latency
from jstc import models
from jstc.channels import analyse


@pytest.fixture
def results():
    spec = models.spec("resnet20", num_classes=10, in_channels=3, height=8, width=8)
    channels = analyse(models.build(spec, device="meta"), torch.zeros(1, 3, 8, 8))
    plans = [channels.uniform_plan(flops=0.5), channels.random_plan(flops=0.3, seed=1)]
    return [
        {"case": "resnet20-50", "accuracy": 0.5, "flops_share": share, "extra": {"counts": plan.counts}}
        for plan, share in zip(plans, (0.5, 0.3), strict=True)
    ]


@pytest.mark.slow  # exports three networks; the next test does, too
def test_it_times_the_target_network_and_those_of_the_results(results, tmp_path):
    whole, half, third = accuracy_latency.opened(results, tmp_path, size=8, threads=1)
    assert 0.45 < half.facts.flops / whole.facts.flops <= 0.5
    assert 0.25 < third.facts.flops / whole.facts.flops <= 0.3


def test_it_prints_a_line_for_each_result(results, tmp_path, monkeypatch, capsys):
    paths = []
    for number, result in enumerate(results):
        paths.append(tmp_path / f"method-s{number}.json")
        paths[-1].write_text(json.dumps(result))
    options = ["--size", "8", "--batch", "1", "--seconds", "0.05"]
    monkeypatch.setattr(sys, "argv", ["accuracy_latency.py", *map(str, paths), *options])
    accuracy_latency.main()
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("batch 1, 8 pixels, 1 threads")
    assert [line.split()[:2] for line in lines] == [["method-s0", "50.00"], ["method-s1", "50.00"]]
    assert all("x (" in line for line in lines)


def test_results_of_several_networks_are_refused(results, tmp_path, monkeypatch):
    results[0]["case"] = "vgg16_bn-50"
    for number, result in enumerate(results):
        (tmp_path / f"{number}.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["accuracy_latency.py", *map(str, tmp_path.glob("*.json"))])
    with pytest.raises(SystemExit, match="of several networks"):
        accuracy_latency.main()
