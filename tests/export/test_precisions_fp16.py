"""fp16: the same answers in half the bytes; float32 at the ends unless float16 is asked for."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from torch import Tensor, nn

from jstc import export
from jstc.errors import StageError
from jstc.export.precisions import to_fp16


def types(model: onnx.ModelProto) -> tuple[int, int]:
    first, last = model.graph.input[0], model.graph.output[0]
    return first.type.tensor_type.elem_type, last.type.tensor_type.elem_type


@pytest.mark.parametrize(
    ("io", "expected"), [("float32", TensorProto.FLOAT), ("float16", TensorProto.FLOAT16)]
)
def test_weights_are_half_and_the_ends_are_as_asked(
    onnx_path: Path, network: nn.Module, images: Tensor, tmp_path: Path, io: str, expected: int
) -> None:
    model = to_fp16(onnx.load(str(onnx_path)), io=io)
    export.save(model, tmp_path / "half.onnx", metadata={"precision": "fp16"})
    written = onnx.load(str(tmp_path / "half.onnx"))
    assert types(written) == (expected, expected)
    assert {item.data_type for item in written.graph.initializer} == {TensorProto.FLOAT16, TensorProto.INT64}
    assert export.read_metadata(tmp_path / "half.onnx") == {"precision": "fp16"}
    export.require_runs(tmp_path / "half.onnx", images)
    found = export.parity(network, tmp_path / "half.onnx", images)
    assert 1e-6 < found.max_abs_diff < 5e-3
    assert found.top1_agreement == 1


def test_the_float32_graph_is_left_as_it_was(onnx_path: Path) -> None:
    model = onnx.load(str(onnx_path))
    before = model.SerializeToString(deterministic=True)
    to_fp16(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_failure_of_the_converter_is_ours(onnx_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise KeyError("node")

    monkeypatch.setattr("jstc.export.precisions.convert_float_to_float16", fail)
    with pytest.raises(StageError, match="could not convert the graph to float16: 'node'"):
        to_fp16(onnx.load(str(onnx_path)))
