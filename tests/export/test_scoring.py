from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from jstc import export
from jstc.errors import InputError
from jstc.export.classifier import open_classifier
from jstc.export.scoring import score


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
        batch = torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)
        export.accuracy(onnx_path, [batch], num_classes=num_classes)


def test_the_right_data_set_fits(onnx_path: Path) -> None:
    batch = torch.zeros(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64)
    assert 0 <= export.accuracy(onnx_path, [batch], num_classes=5) <= 1


def test_with_few_classes_there_is_no_top_five(onnx_path: Path, images: Tensor) -> None:
    found = score(open_classifier(onnx_path), [(images, torch.zeros(7, dtype=torch.int64))])
    assert found.top5_accuracy is None
    assert found.interval[0] <= found.accuracy <= found.interval[1]


def test_the_last_batch_of_a_fixed_size_is_filled_up_and_not_counted(onnx_classifier, images: Tensor) -> None:
    fixed, any_size = onnx_classifier("fixed.onnx", batch=3), onnx_classifier("any.onnx")
    wanted = open_classifier(any_size).answer(images.numpy()).classes
    found = open_classifier(fixed).answer(images.numpy())
    assert (found.classes == wanted).all()
    assert len(found.classes) == len(found.defined) == 7


@pytest.mark.parametrize(
    ("channels_last", "shape"),
    [(True, [None, 16, 24, 3]), (False, ["n", 3, 16, 24]), (True, [1, "h", "w", 3])],
)
def test_either_layout_is_understood(
    tmp_path: Path, channels_last: bool, shape: list[int | str | None]
) -> None:
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node
    nodes = [node("Flatten", ["x"], ["flat"]), node("Cast", ["flat"], ["y"], to=onnx.TensorProto.FLOAT)]
    pixels, scores = (
        info("x", onnx.TensorProto.UINT8, shape),
        info("y", onnx.TensorProto.FLOAT, ["n", "k"]),
    )
    graph = onnx.helper.make_graph(nodes, "g", [pixels], [scores])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "x.onnx")
    found = open_classifier(tmp_path / "x.onnx")
    assert (found.channels_last, found.takes_pixels, found.shape[0]) == (channels_last, True, 3)
    assert found.shape[1:] in ((16, 24), (None, None))
