from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jstc import export
from jstc.errors import InputError


def test_every_image_counts_once(network: nn.Module, onnx_path: Path, images: Tensor) -> None:
    labels = network(images).argmax(1)
    labels[:2] = (labels[:2] + 1) % 5
    batches = [(images[:4], labels[:4]), (images[4:6], labels[4:6]), (images[6:], labels[6:])]
    assert export.accuracy(onnx_path, batches) == 5 / 7
    assert export.accuracy(onnx_path, iter(batches), num_classes=5, threads=1) == 5 / 7


def test_channels_last_images_are_understood(network: nn.Module, onnx_path: Path, images: Tensor) -> None:
    labels = network(images).argmax(1)
    striped = images.to(memory_format=torch.channels_last)
    assert export.accuracy(onnx_path, [(striped, labels)]) == 1.0


def test_no_images_have_no_accuracy(onnx_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        export.accuracy(onnx_path, [])


@pytest.mark.parametrize(
    ("shape", "num_classes", "says"),
    [
        ((1, 16, 16), 5, "takes images of 3 x 16 x 16, but the data set has 1 x 16 x 16"),
        ((3, 16, 32), 5, "takes images of 3 x 16 x 16, but the data set has 3 x 16 x 32"),
        ((3, 16, 16), 10, "gives 5 classes, but the data set has 10"),
    ],
)
def test_another_data_set_is_refused(
    onnx_path: Path, shape: tuple[int, int, int], num_classes: int, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        export.check_fits(onnx_path, shape=shape, num_classes=num_classes)
    with pytest.raises(InputError, match=says):
        batch = torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)
        export.accuracy(onnx_path, [batch], num_classes=num_classes)


def test_the_right_data_set_fits(onnx_path: Path) -> None:
    export.check_fits(onnx_path, shape=(3, 16, 16), num_classes=5)
