"""ONNX files of other forms than a classifier's, made without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

Size = int | str | None
FLOAT, INT64, BOOL, STRING = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.STRING,
)


def written(
    path: Path,
    inputs: Mapping[str, tuple[int, Sequence[Size]]],
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, tuple[int, Sequence[Size]]],
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A file of these nodes; inputs and outputs are given by type and shape."""
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(nodes),
        "graph",
        [info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, str(path))
    return path


def encoder(
    path: Path, *, vocabulary: int = 10, width: int = 4, metadata: Mapping[str, str] | None = None
) -> Path:
    """Token ids [batch, tokens] and a mask of whole numbers to vectors, and to sums [batch, width]."""
    make = onnx.helper.make_node
    nodes = [
        make("Gather", ["table", "ids"], ["vectors"]),
        make("Cast", ["mask"], ["kept"], to=FLOAT),
        make("Unsqueeze", ["kept", "last"], ["column"]),
        make("Mul", ["vectors", "column"], ["masked"]),
        make("ReduceSum", ["masked", "first"], ["sums"], keepdims=0),
    ]
    tokens = ("batch", "tokens")
    table = np.random.default_rng(0).standard_normal((vocabulary, width)).astype(np.float32)
    return written(
        path,
        {"ids": (INT64, tokens), "mask": (INT64, tokens)},
        nodes,
        {"vectors": (FLOAT, (*tokens, width)), "sums": (FLOAT, ("batch", width))},
        weights={"table": table, "last": np.array([2]), "first": np.array([1])},
        metadata=metadata,
    )
