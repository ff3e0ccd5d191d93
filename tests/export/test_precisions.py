"""The gate of a precision, and the largest value inside a graph."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from jstc import export
from jstc.cli.export import KNOWN
from jstc.recipe.schema import ExportSettings


def problem(accuracy: float, max_drop: float = 1.0) -> str | None:
    return export.accuracy_problem("m.onnx", accuracy=accuracy, reference=0.93, max_drop=max_drop)


def test_the_names_of_the_files() -> None:
    assert [export.file_name(name) for name in export.PRECISIONS] == [
        "model.onnx", "model.fp16.onnx", "model.int8.onnx",
    ]  # fmt: skip
    assert export.PRECISIONS == KNOWN


@pytest.mark.parametrize(("accuracy", "max_drop"), [(0.93, 0), (0.95, 0), (0.92, 1.0), (0.9, 3.0), (0, 100)])
def test_a_drop_up_to_the_limit_passes(accuracy: float, max_drop: float) -> None:
    assert problem(accuracy, max_drop) is None


@pytest.mark.parametrize(("accuracy", "max_drop"), [(0.9299, 0), (0.9199, 1), (0.9, 2.9999)])
def test_a_drop_beyond_it_does_not(accuracy: float, max_drop: float) -> None:
    assert problem(accuracy, max_drop) is not None


def test_the_figures_are_in_the_message() -> None:
    assert problem(0.9062, 1.5) == (
        "m.onnx loses 2.38 percentage points of accuracy on the test split: 90.62 % in onnxruntime, "
        "93.00 % in torch; at most 1.5 may be lost"
    )


def test_a_drop_that_is_just_beyond_the_limit_does_not_read_like_it() -> None:
    told = export.accuracy_problem("m.onnx", accuracy=511 / 599, reference=517 / 599, max_drop=1.0)
    assert told is not None
    assert told.startswith("m.onnx loses 1.002 percentage points")


def test_float32_stays_as_it_is_and_needs_no_images(onnx_path: Path) -> None:
    model = onnx.load(str(onnx_path))
    assert export.converted(model, "fp32", settings=ExportSettings(), images=pytest.fail) is model


class Large(nn.Module):
    """Values that float16 cannot hold, inside only."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 4, 1, bias=False)
        self.down = nn.Conv2d(4, 5, 1, bias=False)
        nn.init.constant_(self.up.weight, 3e4)
        nn.init.constant_(self.down.weight, 1e-5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(images))).mean((2, 3))


def test_the_largest_activation_is_found_inside(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    export.write_onnx(Large(), path, shape=(3, 8, 8), opset=18, metadata={})
    images = torch.ones(3, 3, 8, 8)
    images[2] = 2
    model = onnx.load(str(path))
    assert export.largest_activation(model, images) == pytest.approx(1.8e5)
    assert export.largest_activation(model, images[:2]) == pytest.approx(9e4)
