"""Whole networks through onnxruntime, beside the target network, before anything of them is trained."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jstc.plan import Plan

if TYPE_CHECKING:
    from torch import nn

    from jstc.channels import ChannelMap
    from jstc.latency import Setting

__all__ = ["NetworkTimer", "quick_onnx"]

_OPSET = 18
_SECONDS = 2.0


class NetworkTimer:
    """Milliseconds of sub-networks of one target network, in onnxruntime.

    All are timed by turns with the target network, and what is told is their share of its time when it was
    first measured: so figures of different moments compare, whatever else the machine did. The weights are
    those of `new_target`: the time does not depend on them.
    """

    def __init__(
        self,
        new_target: Callable[[], nn.Module],
        channels: ChannelMap,
        setting: Setting,
        shape: tuple[int, ...],
    ) -> None:
        self.setting = setting
        self._new_target, self._channels, self._shape = new_target, channels, shape
        self._first: float | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="jstc-latency-")

    @property
    def target_ms(self) -> float:
        """Median time of the target network, measured once."""
        if self._first is None:
            self.milliseconds([])
        assert self._first is not None
        return self._first

    def milliseconds(self, plans: Sequence[Plan]) -> list[float]:
        """Of the sub-networks of `plans`, for a batch."""
        from jstc import bench
        from jstc.recipe import BenchSettings

        target = Path(self._folder.name) / "target.onnx"
        network = self._new_target().eval()
        if not target.exists():
            quick_onnx(network, target, self._shape)
        compared = {"target": target}
        for number, plan in enumerate(plans):
            path = Path(self._folder.name) / f"{number}.onnx"
            quick_onnx(self._channels.slice(network, plan), path, self._shape)
            compared[str(number)] = path
        settings = BenchSettings(
            provider=self.setting.provider,
            batch_sizes=(self.setting.batch,),
            threads=self.setting.threads,
            seconds=_SECONDS * len(compared),
        )
        rows = bench.compare(compared, settings=settings)
        if self._first is None:
            self._first = rows[0].median_ms
        return [self._first / row.speedup_vs_target for row in rows[1:]]


def quick_onnx(network: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    """Write a file to be timed, not to be used; `shape` is [C, H, W].

    By torch's older exporter, which takes a tenth of the time and gives the same layers; where it cannot, as
    for the export itself. Raises `StageError` where that cannot either.
    """
    import torch

    from jstc.export import write_onnx

    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(),
                (torch.zeros(2, *shape),),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            )
    except Exception:  # whatever it says: it is not the exporter that counts
        write_onnx(network, path, shape=shape, opset=_OPSET, metadata={})  # type: ignore[arg-type]
