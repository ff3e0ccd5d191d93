"""The page for people who come from other libraries: our blocks run, on a small network, in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import jstc

PAGE = Path(__file__).parents[1] / "docs" / "migration.md"
OTHERS = ("torch_pruning", "modelopt", "nncf", "aimet_torch")
TINY = [
    "search.rounds=1", "search.steps_per_round=1", "finetune.epochs=1", "finetune.steps_per_epoch=1",
    "train.batch_size=16", "search.recalibration_images=16", "search.importance_images=16", "device=cpu",
    "threads=1", "channels.round_to=1", "export.parity_images=8", "search.candidates=8",
]  # fmt: skip


class SmallClassifier(nn.Module):
    """Two convolutions and a linear layer: scores of four classes for images of 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.fc = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv2(self.bn1(self.conv1(images)).relu()).relu()
        return self.fc(hidden.mean((2, 3)))


def sections() -> dict[str, list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    titled = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    code = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return {title: code.findall(body) for title, body in zip(titled[::2], titled[1::2], strict=True)}


def is_ours(block: str) -> bool:
    return re.search(r"^import jstc$", block, re.MULTILINE) is not None


def test_every_library_has_its_call_and_ours() -> None:
    for title, blocks in sections().items():
        theirs = [block for block in blocks if any(f" {name}" in block for name in OTHERS)]
        assert theirs, title
        assert [block for block in blocks if is_ours(block)], title
        assert all(is_ours(block) != (block in theirs) for block in blocks), title
        for block in theirs:
            compile(block, title, "exec")


@pytest.mark.parametrize("title", sections())
def test_our_blocks_run(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    search = jstc.search

    def small_search(*arguments: Any, **options: Any) -> Any:
        return search(*arguments, **options, settings=TINY, progress=False)

    monkeypatch.setattr(jstc, "search", small_search, raising=False)
    images, labels = torch.rand(32, 3, 8, 8), torch.arange(32) % 4
    names: dict[str, Any] = {
        "model": SmallClassifier().eval(),
        "example_input": images[:1],
        "train_data": TensorDataset(images, labels),
        "val_data": TensorDataset(images, labels),
        "batches": [images],
    }
    before = {name: tensor.clone() for name, tensor in names["model"].state_dict().items()}
    whole = sum(tensor.numel() for tensor in names["model"].parameters())
    for block in filter(is_ours, sections()[title]):
        exec(compile(block, title, "exec"), names)
        small = names.pop("small")
        assert isinstance(small, nn.Module)
        assert small(images).shape == (32, 4)
        assert sum(tensor.numel() for tensor in small.parameters()) < 0.8 * whole
    assert all(torch.equal(tensor, before[name]) for name, tensor in names["model"].state_dict().items())
