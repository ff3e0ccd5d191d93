"""The loader alone: batches that nobody trains on, and where the time of a batch goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.throughput.clock import Stopwatch
from benchmarks.throughput.setups import RANDOM, Subject, random_dataset
from jstc.data import Dataset, in_memory, loader, transforms
from jstc.data.base import Split
from jstc.train.loop import stream

__all__ = ["measured"]

_PARTS = ("decode", "augment", "normalise")
_REST = "collect, to device"


def measured(subject: Subject, *, steps: int, repeats: int) -> dict[str, Any]:
    """Images a second of the data set and, beside it, of one in memory with images of the same shape.

    `steps` batches each time. `training` is augmented, `evaluation` not. `ms_per_image` says, for one
    process without workers, where the time goes.
    """
    sets = {subject.recipe.dataset: subject.dataset} | _in_memory(subject)
    found: dict[str, list[list[float]]] = {name: [] for name in sets}
    for _ in range(repeats + 1):
        for name, dataset in sets.items():
            found[name].append(_rates(subject, dataset, steps))
    return {
        name: {
            "training": float(np.median([rate for rate, _ in rates[1:]])),
            "evaluation": float(np.median([rate for _, rate in rates[1:]])),
            "ms_per_image": _parts(subject, sets[name]),
        }
        for name, rates in found.items()
    }


def _in_memory(subject: Subject) -> dict[str, Dataset]:
    if isinstance(subject.dataset.train, in_memory.MemorySplit):
        return {}
    info = subject.dataset.info
    return {RANDOM: random_dataset(subject.recipe, info.input_shape, info.num_classes, subject.where)}


def _rates(subject: Subject, dataset: Dataset, steps: int) -> list[float]:
    """Images a second: in training, in evaluation."""
    batch = subject.recipe.train.batch_size
    training = stream(dataset.train, batch, seed=0, start=0, count=steps)
    evaluation = dataset.train.ordered(batch, limit=steps * batch)
    found = [_rate(subject, batches) for batches in (training, evaluation)]
    if isinstance(dataset.train, loader.LoaderSplit):
        dataset.train.loaders.close()  # its workers would go on preparing batches beside the next measurement
    return found


def _rate(subject: Subject, batches: Iterator[Any]) -> float:
    """The first batch waits for workers to start and is not counted, unless it is the only one."""
    subject.sync()
    times, images = [time.perf_counter()], []
    for batch, _ in batches:
        images.append(len(batch))
        times.append(time.perf_counter())
    subject.sync()
    times[-1] = time.perf_counter()
    first = 1 if len(images) > 1 else 0
    return sum(images[first:]) / (times[-1] - times[first])


def _parts(subject: Subject, dataset: Dataset) -> dict[str, float]:
    """Milliseconds an image, by part, of a training batch made in this process."""
    watch, batch = Stopwatch(subject.sync, subject.now), subject.recipe.train.batch_size
    split = _watched_split(dataset.train, watch)
    with _watched(watch):
        batches = stream(split, batch, seed=0, start=0, count=2)
        for _ in range(2):  # the first also has the order of its epoch, and its draws
            watch.restart()
            images, _ = next(batches)
            seconds = watch.read()
    found = {part: 1e3 * seconds[part] / len(images) for part in _PARTS if part in seconds}
    return found | {_REST: 1e3 * sum(seconds.values()) / len(images) - sum(found.values())}


def _watched_split(split: Split, watch: Stopwatch) -> Split:
    """The split without workers; decoding belongs to the watch's part of that name."""
    if not isinstance(split, loader.LoaderSplit):
        return split
    images = replace(split.images, read=watch.around(split.images.read, "decode"))
    return replace(split, images=images, settings=split.settings.model_copy(update={"workers": 0}))


@contextlib.contextmanager
def _watched(watch: Stopwatch) -> Iterator[None]:
    transform = transforms.for_training

    def timed_transform(*given: Any) -> Any:
        return watch.around(transform(*given), "augment")

    with (
        mock.patch.object(transforms, "for_training", timed_transform),
        mock.patch.object(in_memory, "_move", watch.around(in_memory._move, "augment")),
        mock.patch.object(in_memory, "normalise", watch.around(in_memory.normalise, "normalise")),
        mock.patch.object(loader, "normalise", watch.around(in_memory.normalise, "normalise")),
    ):
        yield
