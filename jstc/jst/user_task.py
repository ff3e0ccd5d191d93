"""What a user's own batches and loss tell a search: which channels matter, what a plan is worth untrained.

`Batches` runs any network on batches of any form. `UserTask` mends cut networks on them; with a loss it also
ranks channels (`Looks`) and judges plans (`PlanJudge`), as a search with a dataset of its own does.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from jstc.channels.reconstruction.reconstruct import Reconstruction, examples
from jstc.channels.trace.ids import evaluating
from jstc.errors import ChannelError, InputError
from jstc.jst.plan_judge import FIRST_PART, LARGEST, MENDING, Judged, Remembering
from jstc.jst.subnetwork import Target, fit
from jstc.plan import Plan
from jstc.train import collectives, seeds
from jstc.train.recalibration import estimate, has_statistics

__all__ = ["NOTHING", "Call", "Loss", "UserTask", "copied", "examples", "recalibrate", "run"]

Call = Callable[[nn.Module, Any], Any]
Loss = Callable[[nn.Module, Any], Tensor]


def run(network: nn.Module, batch: Any) -> Any:
    """Call a network on a batch: a tensor; a tuple or list that begins with the input; inputs by keyword.

    Raises `InputError` for a batch that is none of those.
    """
    args = () if isinstance(batch, dict) else (batch if isinstance(batch, Tensor) else batch[0],)
    named = batch if isinstance(batch, dict) else {}
    try:
        inspect.signature(network.forward).bind(*args, **named)
    except TypeError as error:
        raise InputError(
            f"the network is not called with such a batch as it is ({error})",
            "give call=, a function of a network and a batch: lambda network, batch: network(batch['image'])",
        ) from None
    return network(*args, **named)


def recalibrate(network: nn.Module, batches: Iterable[Any], *, call: Call = run) -> int:
    """Estimate a network's running means and variances anew, in place, as the average over `batches`.

        jstc.recalibrate(round.network, loader, call=lambda network, batch: network(batch["pixels"]))

    Only batch norms are in training mode meanwhile, and nothing but their statistics changes. `call` runs the
    network on a batch; left out, a batch is a tensor, a tuple or list that begins with the input, or a
    dictionary of inputs by keyword. Returns the number of examples, 0 for a network without such norms.
    Raises `InputError` where there are no batches, such as in an iterator that has been used up; then, and
    when a forward fails, the statistics are as they were.
    """
    forwards = ((max(1, examples(batch)), partial(_forward, call, network, batch)) for batch in batches)
    seen = estimate(network, forwards)
    if not seen and has_statistics(network):
        raise InputError(
            "there are no batches to estimate statistics on",
            "give a list or a loader: an iterator that was used before is empty",
        )
    return seen


def _forward(call: Call, network: nn.Module, batch: Any) -> None:
    call(network, copied(batch))


@dataclass
class UserTask(Remembering):
    """Batches, how a network is called on one, and the loss; all but the batches can be left out.

    With a loss every second batch judges, and the others are looked at and mended on.
    """

    batches: Sequence[Any]
    call: Call = run
    loss: Loss | None = None
    seed: int = 0
    _known: dict[str, Judged] = field(default_factory=dict, init=False, repr=False)
    _target: Target | None = field(default=None, init=False, repr=False)

    freezes = False

    @classmethod
    def given(
        cls, batches: Iterable[Any] | None, call: Call, loss: Loss | None, seed: int
    ) -> UserTask | None:
        """The task of what a user gave; None without batches, which a loss needs."""
        if batches is None and loss is not None:
            raise InputError("loss= needs batches= to be computed on", "give a list of some training batches")
        return None if batches is None else cls(list(batches), call, loss, seed)

    def __post_init__(self) -> None:
        if not self.batches or not all(map(examples, self.batches)):
            raise InputError(
                "batches= needs at least one batch, and a tensor with a first dimension in each",
                "give a list of some batches of training data, a few hundred examples in all",
            )

    @property
    def fitting(self) -> Sequence[Any]:
        """Batches that are looked at and mended on."""
        return self.batches if self.loss is None else self.batches[::2]

    @property
    def judging(self) -> Sequence[Any]:
        """Batches that plans are judged on; of a single batch, that one."""
        return self.batches[1::2] or self.batches

    # Looking at the network as it was given (`Looks`)

    @property
    def num_images(self) -> int:
        """Examples that are looked at."""
        return sum(map(examples, self.fitting))

    def num_batches(self, size: int, limit: int) -> int:
        """Batches that have `limit` examples, as large as they are."""
        del size
        return len(self._of(limit))

    def losses(self, size: int, *, limit: int, reduction: str) -> Iterator[Callable[[nn.Module], Tensor]]:
        """Losses on the user's batches, `limit` examples of them, of whatever `size` and `reduction`."""
        del size, reduction
        return (partial(self._loss, batch) for batch in self._of(limit))

    def _of(self, limit: int) -> Sequence[Any]:
        """The first batches, with at least `limit` examples where there are so many."""
        before = itertools.accumulate(map(examples, self.fitting), initial=0)
        return [batch for batch, seen in zip(self.fitting, before, strict=False) if seen < limit]

    @contextmanager
    def looking(self, network: nn.Module, purpose: str = "looking") -> Iterator[None]:
        """A block in which losses of `network` are computed, with random numbers of its own.

        At its end the modes and buffers are as before.
        """
        modes = {module: module.training for module in network.modules()}
        buffers = [(module, dict(module._buffers)) for module in network.modules()]
        values = {
            id(buffer): buffer.clone() for _, own in buffers for buffer in own.values() if buffer is not None
        }
        try:
            with seeds.apart(self.seed, purpose):
                yield
        finally:
            for module, own in buffers:
                module._buffers = own  # also where the forward has made others
                for buffer in own.values():
                    if buffer is not None:
                        buffer.detach().copy_(values[id(buffer)])
            for module, training in modes.items():
                module.training = training

    def _loss(self, batch: Any, network: nn.Module) -> Tensor:
        assert self.loss is not None
        found = self.loss(network, copied(batch))
        if not isinstance(found, Tensor) or found.numel() != 1:
            form = f"a tensor of {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"loss= gave {form}; expected a tensor with one number")
        return found.reshape(())

    # Judging plans at the weights as they are (`PlanJudge`)

    def of(self, target: Target) -> UserTask:
        """This task as judge of plans of a target network."""
        found = copy.copy(self)
        found._known, found._target = {}, target
        return found

    @property
    def images(self) -> int:
        """Examples that a plan is judged on."""
        return sum(map(examples, self.judging))

    def _judged(self, plan: Plan, bound: float) -> Judged:
        assert self._target is not None
        network = self.mended(self._target, plan, MENDING, rough=True)[0]
        number = -(-len(self.judging) // FIRST_PART)
        first, seen = self._sum(network, self.judging[:number])
        found = Judged(None, None, first / seen, seen)
        if not found.first > bound:
            rest, more = self._sum(network, self.judging[number:])
            found = Judged((first + rest) / (seen + more), None, found.first, seen + more)
        return found

    def thoroughly(self, plan: Plan) -> float:
        """Loss of a plan mended on all batches."""
        assert self._target is not None
        return self.worth(self.mended(self._target, plan, 2**31)[0])

    def recalibrated(self, plan: Plan) -> float:
        """Loss of a plan at the weights as they are, with statistics estimated anew."""
        assert self._target is not None
        return self.worth(self._recalibrated(self._target, plan))

    def _recalibrated(self, target: Target, plan: Plan) -> nn.Module:
        network = target.channels.slice(target.network, plan)
        with seeds.apart(self.seed, "statistics"):
            recalibrate(network, self.fitting, call=self.call)
        collectives.synchronise(network)  # each of several processes has batches of its own
        return network

    def worth(self, network: nn.Module) -> float:
        """Mean loss of a network over the judging batches; a huge one where it gives no numbers."""
        total, seen = self._sum(network, self.judging)
        return total / seen

    @torch.no_grad()
    def _sum(self, network: nn.Module, batches: Iterable[Any]) -> tuple[float, int]:
        """Sum of losses, each as often as its batch has examples, and how many these are."""
        total, seen = 0.0, 0
        with self.looking(network, "judging"), evaluating(network):
            for batch in batches:
                loss, own = float(self._loss(batch, network)), examples(batch)
                total += own * (loss if math.isfinite(loss) else LARGEST)
                seen += own
        total, number = collectives.sums([total, seen])  # so that all of several processes decide alike
        return total, int(number)

    def mended(
        self, target: Target, plan: Plan, images: int, *, rough: bool = False
    ) -> tuple[nn.Module, Reconstruction | None]:
        """The network of a plan, its layers fitted on `images` examples at most; as cut with 0 of them."""
        network = target.channels.slice(target.network, plan)
        images = min(images, self.num_images)
        if not images:
            return network, None
        try:
            with seeds.apart(self.seed, "mending"):
                found = fit(target, network, plan, self.fitting, images=images, rough=rough, call=self.call)
        except ChannelError as error:
            advice = (
                "give call= a function that runs the layers alone, without what is chosen by their results; "
            )
            raise ChannelError(
                error.problem, advice + "or settings: search.reconstruction_images=0"
            ) from error
        return network, found

    def best_cut(self, target: Target, plan: Plan, images: int) -> nn.Module:
        """The network of a plan at trained weights: mended, or with new statistics where that is better."""
        mended, found = self.mended(target, plan, images)
        if self.loss is None or found is None:
            return mended
        as_cut = self._recalibrated(target, plan)
        return as_cut if self.worth(as_cut) < self.worth(mended) else mended

    def fingerprint(self) -> str:
        """What decides a judging beside the network: the batches."""
        return collectives.fingerprint(t for t in tree_leaves(list(self.batches)) if isinstance(t, Tensor))


def copied(batch: Any) -> Any:
    """A batch that a forward may change in place."""
    return tree_map_only(Tensor, torch.clone, batch)


class _Nothing:
    """No batches and no loss: for rankings that look at nothing."""

    num_images, freezes = 0, True

    def num_batches(self, size: int, limit: int) -> int:
        """None."""
        del size, limit
        return 0

    def losses(self, size: int, *, limit: int, reduction: str) -> Iterator[Callable[[nn.Module], Tensor]]:
        """None."""
        del size, limit, reduction
        return iter(())


NOTHING = _Nothing()
