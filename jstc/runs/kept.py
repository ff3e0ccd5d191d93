"""Files of a run that had network and data from Python, by which the command line can go on with it.

It has neither: a class may live in a notebook, and the images in memory. So the stage slim leaves, beside the
weights, the float32 graphs of both networks, and images on which files are calibrated, scored and compared
with what torch has answered. That is enough for export, bench and report, and not to train again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jstc.core import files
from jstc.data.base import DataInfo, Dataset, Split
from jstc.data.in_memory import normalise
from jstc.data.sampling import spread
from jstc.errors import InputError, RunDirectoryError
from jstc.export import encode_metadata, write_onnx
from jstc.recipe.schema import ExportSettings
from jstc.soundness import plain_scores

__all__ = ["STAGES", "Kept", "write"]

STAGES = ("export", "bench", "report")
"""The stages that can be run from what is kept."""

_MOST_BYTES = 64 * 2**20  # of images of a split: 440 pictures of 224 pixels
_MOST_IMAGES = 2048
_BATCH = 64


@dataclass(frozen=True)
class Kept:
    """The files in the folder of the stage slim."""

    folder: Path

    @property
    def network(self) -> Path:
        """The smaller network's float32 graph."""
        return self.folder / "network.onnx"

    @property
    def target(self) -> Path:
        """The given network's float32 graph."""
        return self.folder / "target.onnx"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """How images are prepared, names of classes, and how the graphs were written."""
        found: dict[str, Any] = files.read_json(self.folder / "kept.json")
        return found

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """`images` and `calibration` [N, C, H, W], uint8 for pixels; `labels`, torch's `scores`."""
        path = self.folder / "kept.safetensors"
        try:
            files.require_regular(path)
            return load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise RunDirectoryError(f"{path} cannot be read: {error}") from None

    @property
    def note(self) -> str:
        """A sentence on which images figures are on; none where these are the whole test split."""
        few, whole = len(self.tensors["labels"]), self.facts["test_images"]
        if few == whole:
            return ""
        return (
            f"accuracies here are on {few:,} of {whole:,} test images, which the run keeps: its data were "
            "given from Python, where result.export() has all of them"
        )

    def scores(self, count: int) -> Tensor:
        """What torch has answered, float32 [n, classes], for `count` images spread over those kept."""
        found = self.tensors["scores"]
        return found[torch.from_numpy(spread(len(found), count))]

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy of the smaller network in torch on the images kept."""
        return float((self.tensors["scores"].argmax(1) == self.tensors["labels"]).double().mean())

    def undecided(self, within: float) -> int:
        """The number of images kept whose two best scores are so near each other."""
        best = self.tensors["scores"].topk(min(2, self.tensors["scores"].shape[1]), dim=1).values
        return int((best[:, 0] - best[:, -1] <= within).sum()) if best.shape[1] > 1 else 0

    def copy_network(self, path: Path, settings: ExportSettings) -> None:
        """Copy the smaller network's graph. Raises as `require` does; `DamagedError` for what is no file."""
        self.require(settings)
        _copy(self.network, path)

    def copy_target(self, path: Path) -> None:
        """Copy the given network's graph. Raises `DamagedError` for what is no file."""
        _copy(self.target, path)

    def require(self, settings: ExportSettings) -> None:
        """Raise `InputError` for settings that want the graph written otherwise than it is."""
        for key in ("opset", "batch"):
            if getattr(settings, key) != self.facts[key]:
                raise InputError(
                    f"export.{key}: this run's network was given from Python, and its graph is kept with "
                    f"export.{key}={_shown(self.facts[key])} only",
                    f"leave it, or export in Python: result.export(settings=['export.{key}=...'])",
                )


def _copy(source: Path, path: Path) -> None:
    files.require_regular(source)  # of a device there would be no end
    shutil.copyfile(source, path)


def _shown(value: object) -> str:
    return "dynamic" if value is None else str(value)


def write(
    kept: Kept,
    network: nn.Module,
    target: nn.Module,
    dataset: Dataset,
    settings: ExportSettings,
    sentence: str,
) -> None:
    """Write what is kept, of the emitted `network` and of `target`; `sentence` says how images are prepared.

    Raises `StageError` where torch cannot write a graph.
    """
    info = dataset.info
    for each, path in ((network, kept.network), (target, kept.target)):
        write_onnx(
            each,
            path,
            shape=info.input_shape,
            opset=settings.opset,
            batch=settings.batch,
            metadata=encode_metadata({}),
        )
    images, labels = _sample(dataset.test, info)
    tensors = {
        "images": images,
        "labels": labels,
        "scores": plain_scores(network.cpu().float().eval(), _prepared(images, info)).contiguous(),
        "calibration": _sample(dataset.train, info, settings.calibration_images)[0],
    }
    files.write_with(kept.folder / "kept.safetensors", lambda path: save_file(tensors, path))
    document = {
        "labels": list(info.labels),
        "preprocessing": info.preprocessing.metadata(),
        "sentence": sentence,
        "test_images": dataset.test.num_images,
        "opset": settings.opset,
        "batch": settings.batch,
    }
    files.write_json(kept.folder / "kept.json", document)


def _sample(split: Split, info: DataInfo, count: int = _MOST_IMAGES) -> tuple[Tensor, Tensor]:
    """As many images of a split as may be kept, in order, and their labels; on the CPU."""
    of_pixels = _are_pixels(info)
    bytes_each = info.channels * info.height * info.width * (1 if of_pixels else 4)
    limit = max(min(count, _MOST_BYTES // bytes_each, _MOST_IMAGES), 1)
    images, labels = zip(*((i.cpu(), c.cpu()) for i, c in split.ordered(_BATCH, limit=limit)), strict=True)
    found = torch.cat(images)
    if of_pixels:  # rounding takes back what normalising has done, to the last bit
        mean, std = (torch.tensor(figures).view(1, -1, 1, 1) * 255 for figures in (info.mean, info.std))
        found = (found * std + mean).round().clamp(0, 255).to(torch.uint8)
    return found.contiguous(), torch.cat(labels)


def _are_pixels(info: DataInfo) -> bool:
    # Tensors that come from a Dataset are not normalised here.
    return (set(info.mean), set(info.std)) != ({0.0}, {1.0})


def _prepared(images: Tensor, info: DataInfo) -> Tensor:
    return normalise(images, info) if images.dtype == torch.uint8 else images
