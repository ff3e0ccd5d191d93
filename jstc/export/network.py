"""The network as it is exported: a float32 copy on the CPU, in evaluation mode, with one output."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jstc.errors import StageError

__all__ = ["reference", "run_reference"]


class FirstOutput(nn.Module):
    """A network that gives several outputs, as one that gives the first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _first(self.network(images))


def reference(network: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """A copy of `network` to export and to compare with, and its number of classes.

    The copy is on the CPU, in float32, contiguous and in evaluation mode; `network` is left as it is.
    `shape` is [C, H, W]. Raises `StageError` when the output is not [N, classes].
    """
    duplicate = copy.deepcopy(network).to("cpu", torch.float32).eval()
    duplicate.to(memory_format=torch.contiguous_format)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        output = duplicate(torch.zeros(2, *shape))
    logits = _first(output)
    if logits.ndim != 2 or len(logits) != 2:
        raise StageError(f"only classifiers can be exported: 2 images gave {tuple(logits.shape)} outputs")
    # Wrapping changes the names of the weights in the file, so it is done only where needed.
    return (duplicate if output is logits else FirstOutput(duplicate).eval()), logits.shape[1]


def run_reference(network: nn.Module, images: Tensor) -> Tensor:
    """Logits [N, classes] of `images` [N, C, H, W], in plain float32 whatever the caller's settings."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return _first(network(images.to("cpu", torch.float32)))
    finally:
        torch.set_float32_matmul_precision(precision)


def _first(output: object) -> Tensor:
    while not isinstance(output, Tensor):
        if isinstance(output, Mapping):
            output = list(output.values())
        if not isinstance(output, list | tuple) or not output:
            raise StageError(f"the network's output is a {type(output).__name__}, not logits")
        output = output[0]
    return output
