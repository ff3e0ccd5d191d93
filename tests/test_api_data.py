"""The user's own torch Datasets: same order for the same seed, whole splits, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from jstc.api import GivenSplit, as_dataset, as_split
from jstc.data import Epoch
from jstc.errors import DataError

CPU = torch.device("cpu")
IMAGES = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 4, 4)
DATA = TensorDataset(IMAGES, torch.arange(10))


def labels(batches):
    return [label for _, batch in batches for label in batch.tolist()]


def test_an_epoch_is_a_pure_function_of_seed_and_epoch():
    split = GivenSplit(DATA, CPU)
    whole = labels(split.shuffled(3, Epoch(1, 0)))
    assert whole == labels(split.shuffled(3, Epoch(1, 0)))
    assert labels(split.shuffled(3, Epoch(1, 0, start=1))) == whole[3:]
    assert whole != labels(split.shuffled(3, Epoch(1, 1)))
    assert (len(whole), split.steps(3)) == (9, 3)


def test_evaluation_sees_every_image_once():
    split = GivenSplit(DATA, CPU)
    assert labels(split.ordered(4)) == list(range(10))
    assert labels(split.ordered(4, limit=5)) == [0, 2, 4, 6, 8]


def test_images_and_labels_stay_together():
    images, classes = next(GivenSplit(DATA, CPU).shuffled(4, Epoch(0, 0)))
    assert images[:, 0, 0, 0].tolist() == classes.tolist()
    assert (images.dtype, classes.dtype) == (torch.float32, torch.int64)


def test_a_dataset_of_two_splits():
    dataset = as_dataset(DATA, DATA, num_classes=10, device=CPU)
    assert dataset.info.input_shape == (3, 4, 4)
    assert dataset.info.num_classes == 10
    split = GivenSplit(DATA, CPU)
    assert as_split(split, CPU) is split


@pytest.mark.parametrize(
    "data",
    [[], 3, ["text"], [(torch.zeros(3), 1)], [(torch.zeros(1, 2, 2), "cat")], [(None, 1)]],
    ids=["empty", "a number", "texts", "a vector", "a name for a label", "no image"],
)
def test_what_is_no_dataset_is_refused(data):
    with pytest.raises(DataError, match="expected a torch Dataset with pairs"):
        as_split(data, CPU)
