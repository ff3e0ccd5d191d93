"""Torch-Pruning as a rival: train the target network, cut it once to the budget, train on.

What was done so that it is at its best:

- It gets the same target network. It cannot trace the zero-padded shortcuts (option A) of the CIFAR ResNets,
  so while it looks on, they are replaced by a module of the same function that it can trace: the zeros come
  from 1x1 convolutions whose weights are zero. It then sees the residual stream as what it is, and may cut it
  like anything else. The substitutes add the same zero to the importance of every channel of a group, which
  its normalisation takes out again. Other networks are given to it as they are.
- Its own group importances (L2 norm, or Taylor expansion) are ranked over the whole network; no group is cut
  below `least_share`; widths are free. The classifier is ignored, as in its examples.
- The pruning ratio is searched by bisection for the largest network within the budget; the time counts as
  `search`.
- Which channels it keeps is read off its pruned network, and the trained target network is sliced there with
  jstc, so that both tools' networks are of one class and counted by one cost model.
- What is left of the training goes on from the pruned weights, with a learning-rate schedule of its own: up
  to the same peak, then to zero (learning-rate rewinding).

Taylor's gradients are paid for: a forward and a backward pass of the target network per image.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy.pretrained import pretrained
from benchmarks.accuracy.work import Outcome, Work
from jstc.channels import ChannelMap
from jstc.channels.trace.ids import evaluating
from jstc.core.seeds import derive
from jstc.errors import StageError
from jstc.models.cifar_networks import PaddedShortcut
from jstc.plan import Plan
from jstc.train.loop import stream

__all__ = ["kept_by", "largest", "planned", "pruned", "traceable"]

_TRIES = 12
_CLOSE = 0.995


def pruned(work: Work) -> Outcome:
    """Pretrain, prune to the budget, finetune with what is left."""
    network = pretrained(work)
    with work.clock.phase("search"):
        ratio, plan = planned(network, work)
        small = work.place(work.channels.slice(network, plan))
    cost = work.channels.cost(plan)
    steps = work.ledger.steps(cost.flops, work.batch)
    split = work.dataset.train_full
    work.train(small, split=split, steps=steps, phase="finetune", name="finetune", flops=cost.flops)
    extra = {"ratio": ratio, "counts": plan.counts}
    return Outcome(work.tested(small), cost.flops, cost.params, small, extra=extra)


def planned(network: nn.Module, work: Work) -> tuple[float, Plan]:
    """The pruning ratio with the largest network within the budget, and its plan, by the job's method."""
    gradients = _gradients(network, work) if work.job.method.endswith("taylor") else {}
    return largest(network, gradients, work)


def _gradients(network: nn.Module, work: Work) -> dict[str, Tensor]:
    """Gradients of the loss by parameter name, summed over batches of training images; the weights stay."""
    count = -(-work.job.settings.taylor_images // work.batch)
    batches = stream(
        work.dataset.train_full, work.batch,
        seed=derive(work.recipe.seed, "accuracy", "taylor"), start=0, count=count,
    )  # fmt: skip
    network.zero_grad()
    images = 0
    with evaluating(network):
        for batch, labels in batches:
            images += len(labels)
            F.cross_entropy(network(batch), labels).backward()  # type: ignore[no-untyped-call]
    work.ledger.pay("pruning", images * work.channels.cost().flops)
    found = {n: p.grad.detach().cpu() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def largest(network: nn.Module, gradients: dict[str, Tensor], work: Work) -> tuple[float, Plan]:
    """The pruning ratio with the largest network within the budget, and its plan."""
    low, high, best = 0.0, 1.0, None
    for _ in range(_TRIES):
        ratio = (low + high) / 2
        plan = _at(network, gradients, ratio, work)
        flops = work.channels.cost(plan).flops
        if flops > work.limit:
            low = ratio
            continue
        high = ratio
        if best is None or flops > best[0]:
            best = flops, ratio, plan
        if flops >= _CLOSE * work.limit:
            break
    if best is None:
        raise StageError("Torch-Pruning reached no network within the budget")
    return best[1], best[2]


def _at(network: nn.Module, gradients: dict[str, Tensor], ratio: float, work: Work) -> Plan:
    duplicate = _marked(network, gradients)
    _prune(duplicate, work, ratio)
    return kept_by(duplicate, work.channels)


def _marked(network: nn.Module, gradients: dict[str, Tensor]) -> nn.Module:
    """A copy on the CPU to be pruned: traceable, and every batch norm carries its channels' numbers.

    They stand in the running variances, which no importance looks at and which are cut with the rest.
    """
    duplicate = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)
    for name, parameter in duplicate.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].clone()
    for module in duplicate.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.copy_(torch.arange(module.num_features))
    traceable(duplicate)
    return duplicate.eval()


def _prune(network: nn.Module, work: Work, ratio: float) -> None:
    import torch_pruning

    kinds: dict[str, Callable[[], object]] = {
        "l2": torch_pruning.importance.GroupMagnitudeImportance,
        "taylor": torch_pruning.importance.GroupTaylorImportance,
    }
    kind = kinds[work.job.method.rpartition("-")[2]]
    with _quiet():
        torch_pruning.pruner.MetaPruner(
            network,
            work.example(),
            importance=kind(),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=1 - work.job.settings.least_share,
            ignored_layers=[m for m in network.modules() if isinstance(m, nn.Linear)],
            # Its own defaults are shared by all pruners, and would remember the networks before this one.
            in_channel_groups={},
            out_channel_groups={},
            channel_groups={},
            num_heads={},
        ).step()


def kept_by(network: nn.Module, channels: ChannelMap) -> Plan:
    """The plan of a pruned network whose batch norms carry their channels' numbers.

    Raises `StageError` where two layers that share a channel disagree on it.
    """
    kept: dict[str, set[int]] = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.BatchNorm2d) or module.running_var is None:
            continue
        left = set(module.running_var.long().tolist())
        for group, position_of in _positions(channels, name).items():
            here = {channel for channel, position in position_of.items() if position in left}
            if kept.setdefault(group, here) != here:
                raise StageError(f"Torch-Pruning kept other channels of '{group}' in {name} than before it")
    return Plan({g.name: tuple(sorted(kept[g.name])) for g in channels.groups}, channels.widths)


def _positions(channels: ChannelMap, name: str) -> dict[str, dict[int, int]]:
    """For the groups on a batch norm: channel of the group -> position on the norm."""
    numbers = channels._structure.numbers[f"{name}.weight"][0]
    found: dict[str, dict[int, int]] = {}
    for position, number in enumerate([] if numbers is None else numbers.tolist()):
        for group in channels.groups:
            if group.start <= number < group.start + group.width:
                found.setdefault(group.name, {})[number - group.start] = position
    return found


class _Shortcut(nn.Module):
    """`PaddedShortcut` in operations that Torch-Pruning can trace; the same function, exactly."""

    def __init__(self, original: PaddedShortcut, in_channels: int) -> None:
        super().__init__()
        self.stride = original.stride
        sizes = len(original.before), len(original.after)
        self.before, self.after = (
            nn.Conv2d(in_channels, size, 1, stride=self.stride, bias=False) for size in sizes
        )
        for module in (self.before, self.after):
            nn.init.zeros_(module.weight)
            module.weight.grad = torch.zeros_like(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, before + C + after, H / stride, W / stride]."""
        return torch.cat([self.before(x), F.max_pool2d(x, 1, self.stride), self.after(x)], 1)


def traceable(network: nn.Module) -> None:
    """Replace the padded shortcuts by what Torch-Pruning can trace, in place."""
    for block in list(network.modules()):
        shortcut = getattr(block, "shortcut", None)
        if isinstance(shortcut, PaddedShortcut):
            first = block.get_submodule("conv1")
            assert isinstance(first, nn.Conv2d)
            block.shortcut = _Shortcut(shortcut, first.in_channels)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
