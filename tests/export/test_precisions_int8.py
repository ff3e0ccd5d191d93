"""int8: QDQ, weights per channel, calibrated on the images given, the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from jstc import export
from jstc.errors import StageError
from jstc.export.precisions import to_int8


@pytest.fixture(scope="module")
def model(onnx_path: Path) -> onnx.ModelProto:
    return onnx.load(str(onnx_path))


@pytest.fixture(scope="module")
def calibration() -> Tensor:
    return torch.randn(70, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def weights(model: onnx.ModelProto) -> list[TensorProto]:
    return [item for item in model.graph.initializer if item.data_type == TensorProto.INT8 and item.dims]


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_the_answers_are_those_of_the_network(
    model: onnx.ModelProto, calibration: Tensor, network: nn.Module, tmp_path: Path, method: str
) -> None:
    path = tmp_path / "model.int8.onnx"
    export.save(to_int8(model, calibration, calibration=method), path, metadata={})
    export.require_runs(path, calibration)
    found = export.parity(network, path, calibration)
    assert 1e-4 < found.max_abs_diff < 0.1 * found.max_abs_logit
    assert found.top1_agreement > 0.9


def test_the_graph_is_qdq_with_a_scale_for_every_channel(
    model: onnx.ModelProto, calibration: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    quantised = to_int8(model, calibration)
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= {node.op_type for node in quantised.graph.node}
    constants = {item.name: item for item in quantised.graph.initializer}
    [node] = [
        node
        for node in quantised.graph.node
        if node.input[0] in constants and list(constants[node.input[0]].dims) == [8, 3, 3, 3]
    ]
    assert node.op_type == "DequantizeLinear"
    assert list(constants[node.input[1]].dims) == [8]
    assert {item.domain for item in quantised.opset_import} == {""}
    assert capfd.readouterr() == ("", "")


def test_weights_have_seven_bits_unless_eight_are_asked_for(
    model: onnx.ModelProto, calibration: Tensor
) -> None:
    for reduce_range, largest in ((True, 64), (False, 127)):
        found = weights(to_int8(model, calibration, reduce_range=reduce_range))
        assert max(abs(numpy_helper.to_array(item).astype(int)).max() for item in found) == largest


def test_the_calibration_images_decide(model: onnx.ModelProto, calibration: Tensor) -> None:
    same, other = (to_int8(model, factor * calibration) for factor in (1, 3))
    assert same.SerializeToString() != other.SerializeToString()


def test_a_fixed_batch_is_filled_up(network: nn.Module, calibration: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    export.write_onnx(network, path, shape=(3, 16, 16), opset=18, metadata={}, batch=3)
    export.save(to_int8(onnx.load(str(path)), calibration[:4]), path, metadata={})
    export.require_runs(path, calibration[:2])
    assert export.parity(network, path, calibration[:5]).images == 5


def test_nothing_to_calibrate_with_is_our_error(model: onnx.ModelProto, calibration: Tensor) -> None:
    with pytest.raises(StageError, match="at least one image to calibrate"):
        to_int8(model, calibration[:0])


PROGRAM = """
import hashlib, sys, onnx, torch
from jstc.export.precisions import to_int8
images = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(2))
print(hashlib.sha256(to_int8(onnx.load(sys.argv[1]), images).SerializeToString()).hexdigest())
"""


def test_another_process_gives_the_same_bytes(onnx_path: Path) -> None:
    found = set()
    for seed in ("1", "2"):  # of Python's hashes: onnxruntime's tools keep tensors in sets
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(export.__file__).parents[2]),
        }
        command = [sys.executable, "-c", PROGRAM, str(onnx_path)]
        found.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(found) == 1
