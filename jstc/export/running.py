"""An exported file at work: float images in, logits out, whatever its types and its batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jstc import ort
from jstc.errors import StageError

__all__ = ["Runner", "padded"]

_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CHUNK = 32


class Runner:
    """A file with one input [N, C, H, W] of floats, on the CPU. `batch` is its fixed batch size, or None.

    Raises `InputError` when the file is no such classifier.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = ort.open_session(path)
        self._signature = ort.signature(self._session, path)
        self.batch = self._signature.input_shape[0]

    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 [N, classes] of `images` [N, C, H, W], in one run; N fits the file's batch size.

        Raises `StageError` when onnxruntime cannot run them.
        """
        feed = images.detach().to("cpu", torch.float32).contiguous().numpy()
        feed = feed.astype(_FLOAT_TYPES.get(self._signature.input_type, np.float32), copy=False)
        try:
            found = self._session.run(None, {self._signature.input_name: feed})[0]
        except ort.ORT_ERRORS as error:
            raise StageError(f"onnxruntime cannot run {self.path.name} on these images: {error}") from error
        return torch.from_numpy(found.astype(np.float32, copy=False))

    def all_logits(self, images: Tensor) -> Tensor:
        """Logits of any number of images, in batches that the file takes."""
        size = self.batch or _CHUNK
        found = [
            self.logits(chunk if self.batch is None else padded(chunk, size))[: len(chunk)]
            for chunk in torch.split(images, size)
        ]
        return torch.cat(found)


def padded(images: Tensor, size: int) -> Tensor:
    """`size` images [size, C, H, W]: those given, and as many of them again as are missing."""
    return images[torch.arange(size) % len(images)]
