"""What a network gives for an image: one score for each class, it is hoped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jstc.errors import ModelError, StageError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["num_scores"]

_IMAGES = 2  # not one: a network that loses or fixes the batch shows


def num_scores(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Class scores for each image [C, H, W]; the network may be on the meta device.

    Raises `ModelError` when what it gives is not [N, scores], and whatever its forward raises.
    """
    import torch

    from jstc.train.loop import evaluating, logits

    where = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluating(network):
        output = network(torch.zeros(_IMAGES, *input_shape, device=where))
    try:
        scores = logits(output)
    except StageError as error:
        raise ModelError(str(error)) from None
    if scores.dim() != 2 or len(scores) != _IMAGES:
        raise ModelError(f"{_IMAGES} images gave {list(scores.shape)}; expected class scores [N, classes]")
    return int(scores.shape[1])
