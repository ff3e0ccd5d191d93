"""A file of a recording as values by pointer: `/groups/0/name`, `/tensors/conv1.weight`, `/line 12`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import safetensors
import yaml

from .masks import masked, masked_text
from .renames import Renames

__all__ = ["read"]


def read(path: Path, renames: Renames) -> dict[str, str]:
    """What the file holds, masked; `renames` is applied. Values are as Python writes them."""
    try:
        document = _READERS.get(path.suffix, _text)(path, renames)
    except Exception:  # damaged, or not what its name says: as it is
        document = {"bytes": _digest(path.read_bytes()), "unreadable as": path.suffix}
    return {pointer: repr(value) for pointer, value in _leaves(document, "")}


def _leaves(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{pointer}/{key}")
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from _leaves(each, f"{pointer}/{number}")
    else:
        yield pointer, value


def _json(path: Path, renames: Renames) -> Any:
    return masked(renames.document(json.loads(path.read_text(encoding="utf-8"))))


def _jsonl(path: Path, renames: Renames) -> Any:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [masked(renames.document(json.loads(line))) for line in lines]


def _yaml(path: Path, renames: Renames) -> Any:
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    return masked(renames.recipe_document(recipe))


def _text(path: Path, renames: Renames) -> Any:
    lines = path.read_text(encoding="utf-8").split("\n")
    return {f"line {n}": masked_text(renames.text(line)) for n, line in enumerate(lines, 1)}


def _tensors(path: Path, renames: Renames) -> Any:
    """Each tensor by type, shape and a hash of its bytes; what is said of them as JSON."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:begin])
    said = {key: json.loads(text) for key, text in header.pop("__metadata__", {}).items()}
    safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # refuses what is damaged
    found = {}
    for name, entry in sorted(header.items()):
        first, last = (begin + offset for offset in entry["data_offsets"])
        found[renames.text(name)] = [entry["dtype"], entry["shape"], _digest(data[first:last])]
    return {"said": masked(renames.document(said)), "tensors": found}


def _onnx(path: Path, renames: Renames) -> Any:
    """Graph, initializers and metadata; where in the code a node was made is left out."""
    model = onnx.load(str(path))
    said = {entry.key: entry.value for entry in model.metadata_props}
    return {
        "ir_version": model.ir_version,
        "opset": {entry.domain: entry.version for entry in model.opset_import},
        "producer": masked([model.producer_name, model.producer_version]),
        "said": masked(renames.document(said)),
        "functions": [_digest(each.SerializeToString(deterministic=True)) for each in model.functions],
        **_graph(model.graph),
    }


def _graph(graph: Any) -> dict[str, Any]:
    def wire(messages: Any) -> list[str]:
        return [_digest(message.SerializeToString(deterministic=True)) for message in messages]

    nodes = []
    for node in graph.node:
        attributes = {each.name: _attribute(each) for each in node.attribute}
        nodes.append([node.name, node.op_type, node.domain, list(node.input), list(node.output), attributes])
    return {
        "inputs": wire(graph.input),
        "outputs": wire(graph.output),
        "nodes": nodes,
        "initializers": {t.name: [t.data_type, list(t.dims), *wire([t])] for t in graph.initializer},
    }


def _attribute(attribute: Any) -> Any:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return _graph(attribute.g)
    return _digest(attribute.SerializeToString(deterministic=True))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_READERS: dict[str, Callable[[Path, Renames], Any]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".yaml": _yaml,
    ".safetensors": _tensors,
    ".onnx": _onnx,
}
