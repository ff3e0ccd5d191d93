"""The images of an experiment: the same stratified part for all methods and seeds, decoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from benchmarks.accuracy.settings import CASES, Job
from jstc import data
from jstc.core import files
from jstc.data import Dataset
from jstc.data.in_memory import Arrays, Augmentation, MemorySplit, dataset_in_memory
from jstc.data.sampling import Indices, spread, stratified
from jstc.data.transforms import policy
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["load", "prepare"]


def prepare(job: Job, *, root: Path | None, out: Path) -> Path:
    """The file with all images of the job's data, made where it is missing.

    Raises `DataError` for data that is not there or too large.
    """
    name = CASES[job.case].data
    folder = hashlib.sha256(str(root and root.resolve()).encode()).hexdigest()[:10]
    path = out / "data" / f"{name}-all-{folder}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            arrays = _decoded(name, root)
            # np.savez would add a suffix of its own to a name without one; the temporary one has it.
            files.write_with(path, lambda temporary: np.savez(temporary, **arrays))
    return path


def _decoded(name: str, root: Path | None) -> dict[str, Any]:
    whole = data.load(name, root=root, settings=InputSettings(), seed=0, device=torch.device("cpu"))
    train, test = whole.train_full, whole.test
    if not isinstance(train, MemorySplit) or not isinstance(test, MemorySplit):
        raise DataError(f"the images of '{name}' do not fit in memory")
    assert train.augmentation is not None  # of the data sets that these cases have
    return {
        "train_images": train.images.numpy(),
        "train_labels": train.labels.numpy(),
        "test_images": test.images.numpy(),
        "test_labels": test.labels.numpy(),
        "augmentation": np.array([train.augmentation.padding, int(train.augmentation.flip)]),
    }


def load(job: Job, *, root: Path | None, out: Path, where: torch.device) -> Dataset:
    """The data set of a job, on the device `where`, in memory."""
    recipe = job.recipe
    info = data.check(recipe.dataset, root=root, settings=recipe.input)
    with np.load(prepare(job, root=root, out=out)) as arrays:
        train, test = _chosen(arrays, job)
        padding, flip = arrays["augmentation"].tolist()
    return dataset_in_memory(
        info,
        train,
        test,
        augmentation=Augmentation(padding, bool(flip), policy(recipe.input, info))
        if recipe.input.augment
        else None,
        val_fraction=recipe.input.val_fraction,
        seed=job.settings.data_seed,
        device=where,
    )


def _chosen(arrays: Mapping[str, Any], job: Job) -> tuple[Arrays, Arrays]:
    """A stratified part of the training images, and test images spread over all: as many as are wanted."""
    settings = job.settings
    labels, test_labels = arrays["train_labels"], arrays["test_labels"]
    chosen = np.arange(len(labels))
    if settings.images is not None and settings.images < len(labels):
        _, chosen = stratified(labels, settings.images / len(labels), seed=settings.data_seed)
    tested = spread(len(test_labels), settings.test_images)

    def part(name: str, indices: Indices) -> Arrays:
        images, classes = (
            torch.from_numpy(arrays[f"{name}_{what}"][indices]) for what in ("images", "labels")
        )
        return images, classes

    return part("train", chosen), part("test", tested)
