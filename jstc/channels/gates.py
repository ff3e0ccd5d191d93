"""Channel weights (alpha): one multiplicative gate per channel, after the norm.

A gate that stands before a batch norm does nothing in training, because the norm cancels any positive
scale. So the gate of a channel scales the affine parameters of every batch norm that the channel passes,
and only where there is none, the weight and bias of the layer that makes the channel. Folding is then the
same multiplication, once and for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from jstc.channels.groups import Structure
from jstc.channels.labels import Ids, Site
from jstc.channels.slicing import keep_vector
from jstc.errors import ChannelError
from jstc.plan import Plan

__all__ = ["GatedNetwork", "fold", "gate_sites", "site_indices"]


def gate_sites(structure: Structure, sites: Iterable[Site]) -> dict[str, Ids]:
    """Channel numbers by parameter: which gate scales which position of its first dimension; -1 for none."""
    found: dict[str, Ids] = {}
    numbered = [(site, structure.number(site.ids)) for site in sites]
    normed = np.zeros(structure.total + 1, bool)
    for site, numbers in numbered:
        if site.kind == "norm":
            normed[numbers] = True
    normed[-1] = False
    for site, numbers in numbered:
        gated = numbers if site.kind == "norm" else np.where(normed[numbers], -1, numbers)
        if (gated >= 0).any():
            found.update(dict.fromkeys(site.params, gated))
    return found


def site_indices(structure: Structure, sites: Mapping[str, Ids], plan: Plan) -> dict[str, Tensor]:
    """The same for the sub-network of a plan: numbers of kept channels; the last number is a constant one."""
    keep = keep_vector(structure, plan)
    rank = np.cumsum(keep) - 1  # kept channels in order; the appended position -1 becomes the last
    return {name: torch.from_numpy(rank[numbers][keep[numbers] == 1]) for name, numbers in sites.items()}


def _gated(parameter: Tensor, alpha: Tensor, index: Tensor) -> Tensor:
    one = torch.ones(1, dtype=alpha.dtype, device=alpha.device)
    scale = torch.cat([alpha, one]).index_select(0, index)
    return parameter * scale.to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1))


class GatedNetwork(nn.Module):
    """A network whose channels are scaled by `alpha`, without another operation on any activation.

    `network` is the plain module, `alpha` [kept channels of all groups] the gates; both may be trained.
    """

    def __init__(
        self, network: nn.Module, alpha: Tensor, index: Mapping[str, Tensor], spans: Mapping[str, slice]
    ) -> None:
        super().__init__()
        self.network = network
        self.alpha = nn.Parameter(alpha.detach().clone())
        self._index = {name: i.to(alpha.device) for name, i in index.items()}
        self._spans = dict(spans)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GatedNetwork:
        # The indices follow `to(device)` like buffers; a buffer's name could not hold a parameter's dots.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._index = {name: index.to(self.alpha.device) for name, index in self._index.items()}
        return self

    @property
    def gates(self) -> dict[str, Tensor]:
        """The gates of each group, as views of `alpha`."""
        return {name: self.alpha.detach()[span] for name, span in self._spans.items()}

    def load_gates(self, gates: Mapping[str, Tensor]) -> None:
        """Set the gates. Raises `ChannelError` for other groups or widths."""
        views = self.gates
        if {n: g.shape for n, g in gates.items()} != {n: v.shape for n, v in views.items()}:
            raise ChannelError("these gates belong to another plan")
        for name, value in gates.items():
            views[name].copy_(value)

    def effective(self) -> dict[str, Tensor]:
        """The gated parameters times their gates, differentiable in both."""
        tensors = dict(self.network.named_parameters())
        return {name: _gated(tensors[name], self.alpha, index) for name, index in self._index.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.network, self.effective(), args, kwargs)


def fold(gated: GatedNetwork) -> nn.Module:
    """Multiply the gates into the parameters, in place; returns the plain network, which needs no gates."""
    tensors = dict(gated.network.named_parameters())
    with torch.no_grad():
        for name, value in gated.effective().items():
            tensors[name].copy_(value)
        gated.alpha.fill_(1.0)
    return gated.network
