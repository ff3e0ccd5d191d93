"""Tiny ONNX classifiers, made without torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

Size = int | str


def classifier(
    path: Path,
    *,
    shape: tuple[Size, ...] = ("batch", 3, 8, 8),
    layers: int = 1,
    half: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """`layers` convolutions 3 -> 3, global average, flatten: logits [batch, 3]."""
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float16 if half else np.float32)
    names = ["images", *(f"conv{index}" for index in range(layers))]
    make = onnx.helper.make_node
    nodes = [
        make("Conv", [before, "weight"], [after], pads=[1, 1, 1, 1])
        for before, after in itertools.pairwise(names)
    ]
    nodes += [make("GlobalAveragePool", [names[-1]], ["pooled"]), make("Flatten", ["pooled"], ["logits"])]
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "classifier",
        [info("images", kind, shape)],
        [info("logits", kind, [shape[0], 3])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def make_classifier(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "model.onnx", **options: object) -> Path:
        return classifier(tmp_path / name, **options)  # type: ignore[arg-type]

    return make
