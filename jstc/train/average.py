"""The moving average of a network's weights, by torch's own `swa_utils`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["Average"]


class Average:
    """After every step `average = decay * average + (1 - decay) * weights`, from the first step's weights.

    The running statistics of batch norms are averaged likewise: they belong to the weights of their time.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(network, multi_avg_fn=rule, use_buffers=True)

    @torch.no_grad()
    def update(self) -> None:
        """A step is over."""
        self._average.update_parameters(self._network)
        # Torch averages whole numbers, too, and cuts off what is behind the point: 5 can become 4.
        for mine, theirs in zip(self._average.module.buffers(), self._network.buffers(), strict=True):
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def tensors(self) -> dict[str, Tensor]:
        """What `restore` takes; the live tensors, not copies."""
        return dict(self._average.state_dict())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        self._average.load_state_dict(dict(tensors))

    def hand_over(self) -> None:
        """Give the network the averages in place of its weights."""
        self._network.load_state_dict(self._average.module.state_dict())
