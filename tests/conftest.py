"""Shared by all tests: no network, no surprises from the surroundings."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# `tests.helpers` and `benchmarks` are found here, jstc where it is installed: a wheel's own files are tested.
sys.path.append(str(Path(__file__).parents[1]))

# Set before torch is imported: the tests' tensors are tiny, and threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing is kept in the user's own cache, nor taken from it; also not by processes that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="jstc-tests-", ignore_cleanup_errors=True)
os.environ["JSTC_CACHE"] = _CACHE.name

# The same examples every time, however slow the machine: a failure must mean a fault.
settings.register_profile("jstc", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("jstc")


_NETWORK = """<ir_version: 9, opset_import: ["": {opset}]>
net ({type}[{batch}, {channels}, {height}, {width}] {images}) =>
  ({type}[{batch}, {classes}] logits{second}) {{
  seen = Conv<pads=[1, 1, 1, 1]>({images}, kernel)
  bent = Relu(seen)
  pooled = AveragePool<kernel_shape=[4, 4], strides=[4, 4]>(bent)
  features = Flatten(pooled)
  logits = MatMul(features, weight)
}}
"""


@pytest.fixture
def onnx_classifier(tmp_path: Path) -> Callable[..., Path]:
    """Writes small classifiers with random weights, without torch: `write(name, classes=5, batch=4, ...)`."""
    import numpy as np
    import onnx
    from onnx import numpy_helper, parser

    def write(  # noqa: PLR0913 - what a test needs of a classifier
        name: str = "net.onnx", *, classes: int = 5, shape: tuple[int, int, int] = (3, 16, 16),
        batch: int | str = "batch", half: bool = False, opset: int = 18, features: bool = False,
        order: Sequence[int] | None = None, metadata: Mapping[str, str] | None = None,
    ) -> Path:  # fmt: skip
        channels, height, width = shape
        size = 6 * (height // 4) * (width // 4)
        model = parser.parse_model(
            _NETWORK.format(
                opset=opset, type="float16" if half else "float", batch=batch, channels=channels,
                height=height, width=width, classes=classes, images="pictures",
                second=f", {'float16' if half else 'float'}[{batch}, {size}] features" if features else "",
            )
        )  # fmt: skip
        random = np.random.default_rng(3)
        kernel = random.normal(size=(6, channels, 3, 3)) / 3
        weight = random.normal(size=(6, size // 6, classes))
        weight = (weight - weight.mean(1, keepdims=True)).reshape(
            size, classes
        )  # shapes count, not brightness
        weight = weight[:, list(order)] if order is not None else weight
        for tensor, values in (("kernel", kernel), ("weight", weight)):
            typed = values.astype(np.float16 if half else np.float32)
            model.graph.initializer.append(numpy_helper.from_array(typed, tensor))
        onnx.helper.set_model_props(model, dict(metadata or {}))
        onnx.save(model, str(tmp_path / name))
        return tmp_path / name

    return write


@pytest.fixture
def no_backend(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """torch.compile up to its compiler, which takes minutes; what it was asked for."""
    import torch

    asked: list[dict[str, Any]] = []
    plain = torch.compile

    def compile_(network: Any, **options: Any) -> Any:
        asked.append(options)
        return plain(network, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_)
    return asked


class PowerCutError(BaseException):
    """Not an `Exception`: as with a kill, nothing in the code may catch it."""


@pytest.fixture
def power_cut() -> Callable[..., AbstractContextManager[Any]]:
    """`with power_cut(2) as progress:` what is given this progress must be broken off when it has done 2.

    `power_cut(calls=2)` breaks it off at the third call of `update` instead, whatever it says.
    """
    from jstc.core.progress import Silent

    class StopAfter(Silent):
        def __init__(self, done: int | None, calls: int | None) -> None:
            self.done, self.calls = done, calls

        def update(self, done: int, **figures: float) -> None:
            if self.calls is not None:
                self.calls -= 1
            if done == self.done or (self.calls is not None and self.calls < 0):
                raise PowerCutError

    @contextmanager
    def cut(done: int | None = None, *, calls: int | None = None) -> Iterator[Silent]:
        with pytest.raises(PowerCutError):
            yield StopAfter(done, calls)

    return cut
