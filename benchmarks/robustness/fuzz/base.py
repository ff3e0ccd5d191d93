"""What the fuzz damages: one small finished run, weights, image trees and parquet files, made once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["NETWORK", "SETTINGS", "call", "make", "trees"]

NETWORK = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))
"""

SETTINGS = {
    "device": "cpu", "threads": 1, "baseline": True, "input.image_size": 8, "input.workers": 0,
    "search.rounds": 2,
    "search.steps_per_round": 1,
    "search.thresholds": "threshnet", "search.candidates": 2, "search.candidate_images": 16,
    "search.eval_images": 16,
    "search.recalibration_images": 32, "finetune.epochs": 1, "finetune.steps_per_epoch": 1,
    "export.parity_images": 4, "bench.seconds": 0.01, "bench.batch_sizes": "[1]", "bench.provider": "cpu",
    "bench.threads": 1, "bench.memory": "false", "bench.profile": "true",
}  # fmt: skip
_IMAGES, _SIDE = 4, 12


def call(words: list[str]) -> int:
    """`jstc` with these words, in this process; its exit code."""
    from jstc.cli import main

    sys.argv = ["jstc", *words]
    try:
        main(words)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def make(folder: Path) -> None:
    """Fill `folder`, in which the process stands, with everything that is to be damaged.

    Raises `RuntimeError` when the run itself fails.
    """
    (folder / "net.py").write_text(NETWORK)
    settings = [word for key, given in SETTINGS.items() for word in ("--set", f"{key}={given}")]
    words = ["search", "net.py:Small", "--dataset", "digits", "--flops", "0.6", "--out", "run", "--quiet"]
    later = (["run", "run/recipe.yaml", "--out", "run"], ["eval", "run"], ["compare", "run", "run"])
    for command in ([*words, *settings], *([*found, "--quiet"] for found in later)):
        if call(command):
            raise RuntimeError(f"the run that the fuzz starts from failed: jstc {' '.join(command)}")
    (folder / "own.yaml").write_bytes((folder / "run" / "recipe.yaml").read_bytes())
    _weights(folder)
    trees(folder)
    os.sync()


def _weights(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / "run" / "baseline" / "model.safetensors")
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "weights.pt")
    (folder / "weights.safetensors").write_bytes(
        (folder / "run" / "baseline" / "model.safetensors").read_bytes()
    )


def trees(folder: Path) -> None:
    """A small image tree and the same as parquet files."""
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        encoded, labels = [], []
        for label in range(10):
            for number in range(_IMAGES if label < 2 else 1):
                image = Image.fromarray(rng.integers(0, 255, (_SIDE, _SIDE, 3), dtype=np.uint8))
                kind = ("png", "jpeg", "webp", "bmp")[number]
                path = (
                    folder
                    / "tree"
                    / split
                    / f"class{label}"
                    / f"{number}.{'jpg' if kind == 'jpeg' else kind}"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
                stream = io.BytesIO()
                image.save(stream, kind)
                encoded.append(stream.getvalue())
                labels.append(label)
        table = pa.table(
            {"image": pa.array([{"bytes": one, "path": "x"} for one in encoded]), "label": labels}
        )
        (folder / "parquet").mkdir(exist_ok=True)
        pq.write_table(table, folder / "parquet" / f"{'train' if split == 'train' else 'test'}.parquet")
