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

from jstc.channels.cutting.slicing import keep_vector
from jstc.channels.groups import Structure
from jstc.channels.trace.ids import Ids, Site
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
    """Numbers of a plan's kept channels by parameter; the last number is a constant one."""
    keep = keep_vector(structure, plan)
    rank = np.cumsum(keep) - 1  # kept channels in order; the appended position -1 becomes the last
    return {name: torch.from_numpy(rank[numbers][keep[numbers] == 1]) for name, numbers in sites.items()}


def _scaled(parameter: Tensor, scale: Tensor) -> Tensor:
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
        # All in one: for small networks the operations on gates take longer than those on images.
        self._sizes = {name: len(i) for name, i in index.items()}
        self._index = torch.cat([*index.values(), torch.zeros(0, dtype=torch.long)]).to(alpha.device)
        self._spans = dict(spans)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GatedNetwork:
        # The index follows `to(device)` like a buffer, without being one: it is no part of the state.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._index = self._index.to(self.alpha.device)
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

    def _by_parameter(self, values: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._sizes, torch.split(values, [*self._sizes.values()]), strict=True))

    @property
    def index(self) -> dict[str, Tensor]:
        """By gated parameter the number of each position's gate; the last number stands for none."""
        return self._by_parameter(self._index)

    def effective(self) -> dict[str, Tensor]:
        """The gated parameters times their gates, differentiable in both."""
        tensors = dict(self.network.named_parameters())
        one = torch.ones(1, dtype=self.alpha.dtype, device=self.alpha.device)
        scales = self._by_parameter(torch.cat([self.alpha, one]).index_select(0, self._index))
        return {name: _scaled(tensors[name], scale) for name, scale in scales.items()}

    def ungated(self) -> nn.Module:
        """The plain network where all gates are one, which computes the same in less time; else this one.

        Looks at the gates once: ask again after they have changed.
        """
        return self.network if bool((self.alpha == 1).all()) else self

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
