"""Channel weights of a trained network: how much the loss would feel each channel, given the ones before it.

What a layer reads from a channel that is cut is not lost where other channels can make it: the layers of a
cut network are fitted (`ChannelMap.reconstruct`). So the channels of a group are put in an order, each the
one that explains most of what the layers reading the group still miss of their outputs. Errors of outputs
count by the square of the loss's gradient in them, a diagonal Fisher (Theis et al. 2018), which makes them
comparable from group to group. Greedy selection of columns, as in OSSCAR (Meng et al. 2024), with two
differences: the Fisher, and one order for all layers that read a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.channels.trace.ids import evaluating
from jstc.core.progress import Progress
from jstc.core.seeds import derive
from jstc.data import Split
from jstc.jst.subnetwork import Target
from jstc.models.outputs import logits
from jstc.train import collectives
from jstc.train.device import Numerics
from jstc.train.loop import frozen

__all__ = ["ImageLooks", "Looks", "spanning"]

_BATCH = 32
_SAMPLES = 8192
"""Positions of a batch's inputs that are looked at, of every layer."""
_WIDEST = 4096
"""Inputs of a layer whose products fit into memory; wider ones are left out."""
_AT_ONCE = 128
"""A wider group is put in order so many parts at a time, not channel by channel."""
_RIDGE = 1e-3
_FALL = 1 - 1e-5  # float32 tells such gains apart


@dataclass
class _Reader:
    """A layer that reads channels: sums over positions of its inputs' products, and of squared gradients.

    `products` [inputs + 1, inputs + 1] with a constant last, `slopes` [outputs].
    """

    module: nn.Module
    products: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, module: nn.Module) -> _Reader:
        weight = module.weight
        assert isinstance(weight, Tensor)
        new = torch.zeros((), dtype=torch.float64, device=weight.device).new_zeros
        return cls(module, new(weight.shape[1] + 1, weight.shape[1] + 1), new(weight.shape[0]))

    def see(self, given: Tensor, output: Tensor) -> None:
        """Add a forward's input, and the gradient of its output when that comes."""
        rows = _rows(self.module, given.detach())
        if len(rows) > _SAMPLES:
            random = torch.Generator().manual_seed(derive(0, "spanning", len(rows)))
            rows = rows[torch.randperm(len(rows), generator=random)[:_SAMPLES].to(rows.device)]
        extended = torch.cat([rows.float(), rows.new_ones(len(rows), 1, dtype=torch.float32)], dim=1)
        self.products += (extended.T @ extended).double()
        if output.requires_grad:
            output.register_hook(self._learn)  # type: ignore[no-untyped-call]

    def _learn(self, gradient: Tensor) -> None:
        self.slopes += _rows(self.module, gradient.detach()).double().square().sum(0)

    def errors(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Covariance of the inputs at `positions` [C, C], and what errors in them cost [C, C]."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        taps = (
            weight.detach().double().flatten(2) if weight.dim() > 2 else weight.detach().double()[:, :, None]
        )
        taps = taps[:, positions]
        scaled = taps * self.slopes[:, None, None]
        cost = sum((scaled[:, :, t].T @ taps[:, :, t] for t in range(taps.shape[2])), torch.zeros(()))
        assert isinstance(cost, Tensor)
        count = self.products[-1, -1].clamp_min(1)
        mean = self.products[positions, -1] / count
        covariance = self.products[positions][:, positions] / count - torch.outer(mean, mean)
        ridge = _RIDGE * covariance.diagonal().mean()
        return covariance + torch.diag(ridge.expand(len(positions))), cost


class Looks(Protocol):
    """Losses of a network on training examples, for rankings that look at it before the first round.

    `num_images` says how many examples there are; `freezes` that the losses have gradients in what layers
    give even where no parameter requires any.
    """

    @property
    def num_images(self) -> int: ...

    @property
    def freezes(self) -> bool: ...

    def num_batches(self, size: int, limit: int) -> int:
        """How many losses there will be."""
        ...

    def losses(self, size: int, *, limit: int, reduction: str) -> Iterator[Callable[[nn.Module], Tensor]]:
        """For each batch of `size` examples, of `limit` in all, a function from a network to its loss.

        Of several processes each has its own part of the examples. `reduction` over a batch: mean or sum.
        """
        ...


@dataclass(frozen=True)
class ImageLooks:
    """Cross-entropies on images of a training split, in float32."""

    split: Split
    channels_last: bool
    freezes = True

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return self.split.num_images

    def num_batches(self, size: int, limit: int) -> int:
        """As `Looks` has it."""
        return -(-limit // size)

    def losses(self, size: int, *, limit: int, reduction: str) -> Iterator[Callable[[nn.Module], Tensor]]:
        """As `Looks` has it."""
        numerics = Numerics(None, self.channels_last)
        for images, labels in self.split.ordered(size, limit=limit, part=collectives.part()):

            def loss(network: nn.Module, images: Tensor = images, labels: Tensor = labels) -> Tensor:
                seen = images.float().requires_grad_()  # the gradients in between are wanted, no others
                # A copy, for forwards that change their input in place.
                scores = logits(numerics.call(network, seen.clone())).float()
                return F.cross_entropy(scores, labels, reduction=reduction)

            yield loss


def spanning(target: Target, looks: Looks, *, images: int, progress: Progress) -> Tensor:
    """What each channel adds to the ones chosen before it [prunable channels]: falling as they were chosen.

    On `images` training images, in evaluation mode; of several processes each does its part. Groups that no
    convolution or linear layer reads as they are, or none that has gradients, rank by norms, at the mean of
    the others. Nothing of `target` changes.
    """
    network, channels = target.network, target.channels
    positions, modules = channels.read_by, dict(network.named_modules())
    readers = {n: _Reader.of(modules[n]) for n in positions if n in modules and _is_reader(modules[n])}
    hooks = [
        reader.module.register_forward_hook(
            lambda _, args, named, output, r=reader: r.see(args[0] if args else named["input"], output),
            with_kwargs=True,
        )
        for reader in readers.values()
    ]
    size = _BATCH * collectives.world()
    progress.start("search", looks.num_batches(size, images), "channel weights batch")
    quiet = frozen(*network.parameters()) if looks.freezes else _without_gradients(network)
    try:
        with evaluating(network), torch.enable_grad(), quiet:
            for number, loss_of in enumerate(looks.losses(size, limit=images, reduction="sum"), start=1):
                loss = loss_of(network)
                if loss.requires_grad:  # which it does not behind a part without gradients
                    loss.backward()  # type: ignore[no-untyped-call]
                progress.update(number)
    finally:
        for hook in hooks:
            hook.remove()
    for reader in readers.values():
        collectives.average(reader.products)
        collectives.average(reader.slopes)
    return _ordered(target, readers, positions)


@contextmanager
def _without_gradients(network: nn.Module) -> Iterator[None]:
    """Take away, at the end, the gradients that the block gives to parameters."""
    try:
        yield
    finally:
        for parameter in network.parameters():
            parameter.grad = None


def _ordered(
    target: Target, readers: Mapping[str, _Reader], positions: Mapping[str, Mapping[str, Tensor]]
) -> Tensor:
    found = torch.zeros_like(target.alpha, dtype=torch.float64)
    for group in target.channels.groups:
        own = [
            readers[name].errors(groups[group.name].to(found.device))
            for name, groups in positions.items()
            if name in readers and group.name in groups and readers[name].slopes.any()
        ]
        if own:
            found[group.start : group.start + group.width] = _gains(own)
    norms, common = target.channels.magnitude(target.network), float(found[found > 0].mean().nan_to_num(1.0))
    for group in target.channels.groups:
        part = found[group.start : group.start + group.width]
        if not part.any():
            part.copy_(common * norms[group.name])
    result = found.to(target.alpha.dtype)
    collectives.copy_from_first([result])  # sums on unequal devices may differ in the last bit
    return result


def _gains(errors: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Gains of the channels of a group [C], in the order in which each explains most of what is missing.

    Of every reader the residual covariance R and the cost of errors M are given. A channel c explains
    R[:, c]' M R[:, c] / R[c, c]; then R loses what it explains (a step of Cholesky's factorisation).
    """
    width = len(errors[0][0])
    state = [[residual, cost @ residual, cost] for residual, cost in errors]
    gains = torch.zeros(width, dtype=torch.float64, device=errors[0][0].device)
    left = torch.ones(width, dtype=torch.bool, device=gains.device)
    at_once, last = max(1, -(-width // _AT_ONCE)), 0.0
    while bool(left.any()):
        each = torch.zeros_like(gains)
        for residual, through, _ in state:
            each += (residual * through).sum(0) / residual.diagonal().clamp_min(1e-12)
        each[~left] = -1
        best = each.topk(min(at_once, int(left.sum()))).indices
        for channel in best.tolist():  # falling and above zero, so that gains say the order of choice
            own = max(float(each[channel]), 1e-30)
            last = min(last * _FALL, own) if last else own
            gains[channel] = last
        left[best] = False
        for part in state:
            residual, _, cost = part
            block = residual[:, best]
            factor, _ = torch.linalg.cholesky_ex(block[best] + 1e-12 * torch.eye(len(best)).to(block))
            made = torch.linalg.solve_triangular(factor, block.T, upper=False).T
            part[0] = residual - made @ made.T
            part[1] = part[1] - (cost @ made) @ made.T
    return gains


def _rows(module: nn.Module, tensor: Tensor) -> Tensor:
    """Channels of a layer's input or output, one row for each position: [N, C]."""
    if isinstance(module, nn.Linear):
        return tensor.reshape(-1, tensor.shape[-1])
    return tensor.movedim(1, -1).reshape(-1, tensor.shape[1])


def _is_reader(module: nn.Module) -> bool:
    """Whether it is a layer that mixes all of its inputs, and not too many."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    mixes = isinstance(module, kinds) and getattr(module, "groups", 1) == 1
    return mixes and isinstance(module.weight, Tensor) and module.weight.shape[1] < _WIDEST
