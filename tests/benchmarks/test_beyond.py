"""Networks beyond classifiers: every check on tiny networks, in processes of their own, and the page."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.beyond import __main__ as beyond
from benchmarks.beyond import table
from benchmarks.beyond.case import Case, classes, images, noise
from benchmarks.beyond.check import STAGES, check
from benchmarks.zoo.record import Record
from jstc.channels import ChannelMap

pytestmark = [
    pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(), reason="this system forks no processes"
    ),
    # This process has threads, which a child does without.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Segmenter(nn.Module):
    """Two results, of which a user needs one; a layer that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.body, self.last = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.helper = nn.Conv2d(12, 4, 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.stem(pictures)).relu()
        found = {"out": self.last(self.body(x).relu()), "features": x}
        return {**found, "aux": self.helper(x)} if self.training else found


def segmenter() -> Case:
    inputs = images(8)

    def loss(network: nn.Module) -> Tensor:
        found = network(*inputs(2))
        target = classes(4, 2, 8, 8).to(found["out"].device)
        losses = [nn.functional.cross_entropy(found[name], target) for name in ("out", "aux")]
        return torch.stack(losses).sum()

    return Case(Segmenter(), inputs, loss, outputs=lambda found: found["out"])


class Reader(nn.Module):
    """Attention over frames: norms over the channels, no batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.wide, self.narrow, self.last = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.embed(frames)
        x = x + self.narrow(self.wide(self.norm(x)).relu())
        found: Tensor = self.last(x.mean(1))
        return found


def reader() -> Case:
    inputs = noise(5, 6)
    return Case(Reader(), inputs, lambda network: network(*inputs(2)).square().mean())


def failing(monkeypatch: pytest.MonkeyPatch, name: str, work: Any) -> dict[str, Any]:
    """Failures of the checks of the small network when a method of the channels does other work."""
    monkeypatch.setattr(ChannelMap, name, work)
    record = Record()
    check(record, segmenter(), only=[s for s in STAGES if s != "onnx"])
    return dict(record.found["failures"])


def test_a_network_goes_through_every_check() -> None:
    found = beyond.checked("tiny", segmenter, limit=300, memory=8)
    assert found["failures"] == {}
    assert found["inexact"] == 0 and found["with_loss"] and found["part"] is None
    assert found["masked"]["apart"] < 1e-9 < found["masked"]["effect"]
    assert found["counts"]["ours"] == found["counts"]["fvcore"]
    assert found["onnx"]["batch"] == "dynamic" and found["onnx"]["outputs"] == 1
    assert len(found["search"]["shares"]) == 3 and max(found["search"]["shares"]) <= 0.5
    assert 0.9 < found["most_flops"] < 1


def test_where_removing_is_not_masking_that_is_said() -> None:
    record = Record()
    check(record, reader(), only=["masked"])
    assert record.found["failures"] == {}
    assert record.found["inexact_reasons"] == ["layer_norm over the channels"]
    assert record.found["masked"]["left_whole"] == 1 < record.found["masked"]["groups"]
    assert record.found["masked"]["apart"] < 1e-9


def test_a_cut_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right, cost = ChannelMap.slice, ChannelMap.cost

    def damaged(self: ChannelMap, model: nn.Module, plan: Any) -> nn.Module:
        small = right(self, model, plan)
        with torch.no_grad():
            small.last.bias += 1e-6
        return small

    assert failing(monkeypatch, "slice", damaged).keys() == {"masked"}

    def whole(self: ChannelMap, model: nn.Module, plan: Any) -> nn.Module:
        small = right(self, model, plan)
        small.helper = nn.Conv2d(12, 4, 1)  # what only training uses is not cut along
        return small

    assert "train" in failing(monkeypatch, "slice", whole)
    monkeypatch.setattr(ChannelMap, "slice", right)
    half = lambda self, plan=None: cost(self, None if plan is None else self.full_plan)  # noqa: E731
    assert "counts" in failing(monkeypatch, "cost", half)


def test_what_cannot_be_analysed_is_a_failure_and_the_rest_is_checked() -> None:
    def loss(network: nn.Module) -> Tensor:
        if network.training and next(network.parameters()).requires_grad:
            raise RuntimeError("no loss")
        return torch.zeros(())

    record = Record()
    check(record, Case(Reader(), noise(5, 6), loss), only=["counts"])
    assert "no loss" in record.found["failures"]["analyse"]
    assert record.found["with_loss"] is False
    assert record.found["counts"]["ours"] == record.found["counts"]["fvcore"]


def sleeping() -> Case:
    time.sleep(60)
    return segmenter()


def greedy() -> Case:
    torch.ones(2**28)
    return segmenter()


def test_processes_are_bounded() -> None:
    assert "not done after 0.5 s" in beyond.checked("x", sleeping, limit=0.5, memory=8)["failures"]["build"]
    assert "allocate" in beyond.checked("x", greedy, limit=60, memory=0.9)["failures"]["build"]


def test_results_are_joined_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(beyond, "FAMILIES", {
        "of our own": ("torch", {"reader": reader}), "other": ("no_such_package", {"stranger": reader})
    })  # fmt: skip
    results, page = tmp_path / "r.jsonl", tmp_path / "page.md"
    monkeypatch.setattr(beyond, "_warm", lambda: None)
    words = ["beyond", "--results", str(results), "--table", str(page)]
    monkeypatch.setattr(sys, "argv", [*words, "--only", "train"])
    assert beyond.main() == 0
    monkeypatch.setattr(sys, "argv", [*words, "--only", "train", "counts"])
    assert beyond.main() == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line.get("checked") for line in lines if line.get("name") == "reader"] == [["train"], ["counts"]]
    text = page.read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| reader |"))
    assert "| yes | equal | - | - |" in row
    assert "- stranger: skipped: no_such_package is not installed" in text
    assert "1 of 1 networks pass every check that was made of them" in text
    assert "trains 1 of 1, counts equal fvcore's 1 of 1, ONNX parity 0 of 0" in text
    assert "Networks left out: 1." in text
    failed = {"name": "reader", "checked": ["counts"], "failures": {"counts": "a | b"}, "seconds": 1}
    beyond._append(results, failed)
    monkeypatch.setattr(sys, "argv", [*words[:3], "--only", "counts", "--table", str(page)])
    assert beyond.main() == 1
    assert "counts equal fvcore's 0 of 1" in page.read_text()
    assert "1 failed: reader" in capsys.readouterr().err
    assert "- reader, counts: a / b" in page.read_text()
    assert table.verdict(failed) == "counts: a | b"
