"""Small ONNX graphs to be measured: the same kernel at many widths, side by side in one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from jstc.latency.grid import Widths
from jstc.latency.layers import Kernel

__all__ = ["build", "node_name", "weight_bytes"]

_OPSET, _IR = 18, 9
_FLOAT = TensorProto.FLOAT


def node_name(number: int) -> str:
    """What the measured node of the point `number` is called, before onnxruntime adds to it."""
    return f"timed{number:04d}"


def build(
    kernel: Kernel, points: Sequence[Widths], *, batch: int
) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """A model with one measured node for each point, and the shapes of its inputs by name.

    Convolutions are followed by a ReLU, which onnxruntime fuses, and by a mean over the positions, so that
    only small results leave the model.
    """
    draft = _Draft(kernel, batch)
    for number, widths in enumerate(points):
        draft.add(number, widths)
    inputs = [helper.make_tensor_value_info(name, _FLOAT, shape) for name, shape in draft.inputs.items()]
    outputs = [helper.make_tensor_value_info(name, _FLOAT, None) for name in draft.outputs]
    graph = helper.make_graph(draft.nodes, "kernels", inputs, outputs, draft.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString()), draft.inputs


def weight_bytes(kernel: Kernel, widths: Widths) -> int:
    """Size of the weights of one point."""
    window = kernel.settings[0] * kernel.settings[1] if "conv" in kernel.kind else 1
    return 4 * window * int(np.prod(widths)) if kernel.kind in ("conv", "grouped", "gemm") else 4 * widths[0]


class _Draft:
    def __init__(self, kernel: Kernel, batch: int) -> None:
        self.kernel, self.batch = kernel, batch
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: list[str] = []

    def add(self, number: int, widths: Widths) -> None:
        name, kind = node_name(number), self.kernel.kind
        if kind in ("conv", "grouped", "depthwise"):
            self._convolution(name, widths)
        elif kind == "pool":
            self._pool(name, widths[0])
        elif kind == "gemm":
            self._gemm(name, widths)
        else:
            self._move(name, widths[0])

    def _input(self, shape: tuple[int, ...]) -> str:
        name = "x" + "_".join(map(str, shape))
        self.inputs[name] = shape
        return name

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        data = np.full(shape, 0.01, np.float32)
        self.weights.append(onnx.numpy_helper.from_array(data, name))
        return name

    def _convolution(self, name: str, widths: Widths) -> None:
        *geometry, groups, height, width = self.kernel.settings
        out = widths[-1]
        if self.kernel.kind == "depthwise":
            channels, groups, inside = out // groups, out // groups, 1
        else:
            channels, inside = widths[0], widths[0] // groups
        x = self._input((self.batch, channels, height, width))
        weight = self._weight(f"{name}.weight", (out, inside, *geometry[:2]))
        bias = self._weight(f"{name}.bias", (out,))
        attributes: dict[str, Any] = {"group": groups, "dilations": geometry[8:10], **_window(geometry)}
        self.nodes.append(helper.make_node("Conv", [x, weight, bias], [f"{name}c"], name=name, **attributes))
        self.nodes.append(helper.make_node("Relu", [f"{name}c"], [name]))
        self._swallow(name)

    def _pool(self, name: str, channels: int) -> None:
        *geometry, mean, height, width = self.kernel.settings
        x = self._input((self.batch, channels, height, width))
        operator = "AveragePool" if mean else "MaxPool"
        self.nodes.append(helper.make_node(operator, [x], [name], name=name, **_window(geometry)))
        self._swallow(name)

    def _swallow(self, name: str) -> None:
        self.nodes.append(helper.make_node("GlobalAveragePool", [name], [f"small{name[5:]}"]))
        self.outputs.append(f"small{name[5:]}")

    def _gemm(self, name: str, widths: Widths) -> None:
        x = self._input((self.kernel.settings[0], widths[0]))
        weight, bias = self._weight(f"{name}.weight", widths[::-1]), self._weight(f"{name}.bias", widths[1:])
        self.nodes.append(helper.make_node("Gemm", [x, weight, bias], [name], name=name, transB=1))
        self.outputs.append(name)

    def _move(self, name: str, elements: int) -> None:
        x = self._input((1, elements))
        self.nodes.append(helper.make_node("Add", [x, x], [name], name=name))
        self.outputs.append(name)


def _window(geometry: Sequence[int]) -> dict[str, Any]:
    return {"kernel_shape": geometry[:2], "strides": geometry[2:4], "pads": geometry[4:8]}
