"""Whole networks through onnxruntime, beside the target network, before anything of them is trained."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jstc.channels import ChannelMap
from jstc.export import write_onnx
from jstc.latency import Setting
from jstc.ort import statistics, timing
from jstc.ort.opened import open_file, prepare
from jstc.plan import Plan

__all__ = ["NetworkTimer", "quick_onnx"]

_OPSET = 18
_SECONDS = 3.0


class NetworkTimer:
    """Milliseconds of sub-networks of one target network, in onnxruntime.

    All are timed by turns with the target network, and what is told is their share of its time when it was
    first measured: so figures of different moments compare, whatever else the machine did. The share is that
    of the calmest runs. The weights are those of `new_target`: the time does not depend on them.
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
        self._folder: Path | None = None

    @property
    def target_ms(self) -> float:
        """Median time of the target network, measured once."""
        if self._first is None:
            self.milliseconds([])
        assert self._first is not None
        return self._first

    def resume(self, target_ms: float) -> None:
        """Go on from an earlier process that measured the target network first."""
        self._first = target_ms

    def milliseconds(self, plans: Sequence[Plan]) -> list[float]:
        """Time of each sub-network of `plans`, for a batch."""
        files = self._files(plans)
        seconds = self._seconds(files)
        if self._first is None:
            self._first = 1e3 * float(np.median(seconds[:, 0]))
        return [self._first * share for share in statistics.calm_shares(seconds)[1:].tolist()]

    def _files(self, plans: Sequence[Plan]) -> list[Path]:
        """ONNX files of the target network and of the plans."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="jstc-latency-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        target = self._folder / "target.onnx"
        network = self._new_target().eval()
        if not target.exists():
            quick_onnx(network, target, self._shape)
        found = [self._folder / f"{number}.onnx" for number in range(len(plans))]
        for path, plan in zip(found, plans, strict=True):
            quick_onnx(self._channels.slice(network, plan), path, self._shape)
        return [target, *found]

    def _seconds(self, files: Sequence[Path]) -> NDArray[np.float64]:
        """Seconds of every timing, [rounds, files]."""
        provider, threads = self.setting.provider, self.setting.threads
        opened = [open_file(p.stem, p, provider=provider, threads=threads) for p in files]
        runs = [prepare(each, self.setting.batch) for each in opened]
        timing.warm_up(runs, seconds=_SECONDS)
        return timing.interleaved_seconds(runs, seconds=_SECONDS * len(runs))


def quick_onnx(network: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    """Write a file to be timed, not to be used; `shape` is [C, H, W].

    By torch's older exporter, which takes a tenth of the time and gives the same layers; where it cannot, as
    for the export itself. Raises `StageError` where that cannot either.
    """
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
