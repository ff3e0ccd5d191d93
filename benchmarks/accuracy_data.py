"""The images of an experiment: the same stratified part for all methods and seeds, decoded once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from accuracy_settings import CASES, Job

from jstc import data, files
from jstc.data import Dataset
from jstc.data.memory import Augmentation, dataset_in_memory
from jstc.data.sampling import spread, stratified
from jstc.errors import DataError
from jstc.recipe import InputSettings

__all__ = ["load", "prepare"]


def prepare(job: Job, *, root: Path | None, out: Path) -> Path:
    """The file with the job's images, made where it is missing. Raises `DataError` for missing data."""
    case, settings = CASES[job.case], job.settings
    sizes = [settings.images, settings.test_images, settings.data_seed]
    what = [case.data, str(root and root.resolve()), *sizes]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:10]
    path = out / "data" / f"{case.data}-{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            arrays = _arrays(job, root)
            # np.savez would add a suffix of its own to a name without one; the temporary one has it.
            files.write_with(path, lambda temporary: np.savez(temporary, **arrays))
    return path


def _arrays(job: Job, root: Path | None) -> dict[str, Any]:
    case, settings = CASES[job.case], job.settings
    whole = data.load(
        case.data, root=root, settings=InputSettings(), seed=settings.data_seed, device=torch.device("cpu")
    )
    train, test = whole.train_full, whole.test
    if not hasattr(train, "images"):
        raise DataError(f"the images of '{case.data}' do not fit in memory")
    labels = train.labels.numpy()
    chosen = np.arange(len(labels))
    if settings.images is not None and settings.images < len(labels):
        _, chosen = stratified(labels, settings.images / len(labels), seed=settings.data_seed)
    tested = spread(test.num_images, settings.test_images)
    augmentation = train.augmentation
    return {
        "train_images": train.images.numpy()[chosen],
        "train_labels": labels[chosen],
        "test_images": test.images.numpy()[tested],
        "test_labels": test.labels.numpy()[tested],
        "augmentation": np.array([augmentation.padding, int(augmentation.flip)]),
    }


def load(job: Job, *, root: Path | None, out: Path, where: torch.device) -> Dataset:
    """The data set of a job, on the device `where`, in memory."""
    recipe = job.recipe
    info = data.check(recipe.dataset, root=root, settings=recipe.input)
    with np.load(prepare(job, root=root, out=out)) as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    padding, flip = found["augmentation"].tolist()
    return dataset_in_memory(
        info,
        (found["train_images"], found["train_labels"]),
        (found["test_images"], found["test_labels"]),
        augmentation=Augmentation(padding, bool(flip)) if recipe.input.augment else None,
        val_fraction=recipe.input.val_fraction,
        seed=job.settings.data_seed,
        device=where,
    )
