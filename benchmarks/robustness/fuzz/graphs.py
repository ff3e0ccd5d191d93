"""ONNX files damaged in their bytes, their graph, or what they tell about themselves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import onnx

from benchmarks.robustness.fuzz.mutations import RAW, broken_bytes, value

__all__ = ["broken_graph"]


def broken_graph(data: bytes, rng: random.Random) -> bytes:
    """An ONNX file broken in its bytes, its nodes, sizes, types, names, or in what its metadata says."""
    if rng.random() < 0.4:
        return broken_bytes(data, rng)
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(_GRAPH)(model, rng)
    return bytes(model.SerializeToString())


def _graph_node(model: Any, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    how = rng.randrange(5)
    if how == 0:
        node.op_type = rng.choice(
            ("Nothing", "Loop", "If", "Reshape", "Gather", "Conv", "Identity", "TopK", "")
        )
    elif how == 1:
        node.domain = rng.choice(("com.microsoft", "x", "ai.onnx.ml"))
    elif how == 2 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i, attribute.f = rng.choice((-1, 0, 2**40)), 1e30
        if attribute.ints:
            attribute.ints[0] = rng.choice((-1, 0, 2**31, 2**62))
    elif how == 3 and node.input:
        node.input[0] = rng.choice(("", "nowhere", node.output[0]))
    else:
        model.graph.node.remove(node)


def _graph_size(model: Any, rng: random.Random) -> None:
    item = rng.choice([*model.graph.input, *model.graph.output])
    dims = item.type.tensor_type.shape.dim
    if dims and rng.random() < 0.7:
        rng.choice(dims).dim_value = rng.choice((0, 1, 2, 7, -1, 4096, 2**31, 2**62))
    else:
        item.type.tensor_type.elem_type = rng.randrange(0, 20)


def _graph_tensor(model: Any, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    how = rng.randrange(4)
    if how == 0:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", rng.choice(("/etc/passwd", "../../x", "model.json", ""))
    elif how == 1 and tensor.dims:
        tensor.dims[0] = rng.choice((0, -1, 2**40, 3))
    elif how == 2:
        tensor.data_type = rng.randrange(0, 20)
    else:
        tensor.raw_data = broken_bytes(tensor.raw_data, rng)


def _graph_words(model: Any, rng: random.Random) -> None:
    keys = (
        "labels",
        "input_size",
        "mean",
        "std",
        "resize_side",
        "accuracy",
        "model",
        "flops",
        "params",
        "odd",
    )
    entry = model.metadata_props.add()
    entry.key = rng.choice(keys)
    raw = json.dumps(value(rng)) if rng.random() < 0.7 else rng.choice(RAW)
    entry.value = raw.encode("utf-8", "replace").decode()
    if rng.random() < 0.5:
        for other in list(model.metadata_props)[:-1]:
            if other.key == entry.key:
                model.metadata_props.remove(other)


def _graph_head(model: Any, rng: random.Random) -> None:
    how = rng.randrange(4)
    if how == 0:
        model.ir_version = rng.choice((0, 1, 3, 99, 2**40))
    elif how == 1:
        model.opset_import[0].version = rng.choice((0, 1, 6, 13, 99, 2**40))
    elif how == 2:
        rng.choice(model.graph.input).name = rng.choice(("", "x" * 5000, "\x1b[2J", "a/b"))
    else:
        model.graph.input.append(rng.choice(model.graph.input))


_GRAPH: tuple[Callable[[Any, random.Random], None], ...] = (
    _graph_node, _graph_size, _graph_tensor, _graph_words, _graph_words, _graph_head,
)  # fmt: skip
