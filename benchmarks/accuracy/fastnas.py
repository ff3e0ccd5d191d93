"""NVIDIA ModelOpt's FastNAS as a rival: train the target network, search its widths, train on.

What was done so that it is at its best:

- It starts from the same trained target network as the other pruning rivals, and its score is the accuracy on
  the whole search-validation split, batch-norm statistics estimated anew on training images by its own means.
- Widths in steps of `channel_divisor` (its default of 32 would leave these networks one or two choices).
- Its constraint is FLOPs as it counts them, by torchprofile, about twice the multiply-adds. The bound is
  moved, a few times, until the network's FLOPs by fvcore are within the budget and near it; the scores of
  layers, which are nearly all of its work, are taken from its checkpoint then. The time counts as `search`.
- What is left of the training goes on from its network, with a learning-rate schedule of its own: up to the
  same peak, then to zero (learning-rate rewinding).

What it cannot trace it leaves whole: of the CIFAR ResNets the residual stream. Its scores see images that the
target network was trained on, as it is shared with rivals that need no search-validation split. Judging is
not charged, as with every method, but counted; it is charged nothing for batch-norm estimation either.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy.ledger import judged_on
from benchmarks.accuracy.pretrained import pretrained
from benchmarks.accuracy.work import Outcome, Work
from jstc.data.base import Batch
from jstc.errors import StageError
from jstc.runs.stages.train import count
from jstc.train.loop import evaluate

__all__ = ["searched"]

_TRIES = 6
_BATCHES = 50  # the length of its queue; it skips the estimate while that is not full
_CLOSE = 0.98


def searched(work: Work) -> Outcome:
    """Pretrain, search widths at the budget, finetune with what is left."""
    network = pretrained(work)
    with work.clock.phase("search"):
        small, bound = _within(network, work)
        small = work.place(small)
    flops, params = _counted(small, work)
    steps = work.ledger.steps(flops, work.batch)
    split = work.dataset.train_full
    work.train(small, split=split, steps=steps, phase="finetune", name="finetune", flops=flops)
    return Outcome(work.tested(small), flops, params, small, extra={"their_bound": bound})


def _within(network: nn.Module, work: Work) -> tuple[nn.Module, float]:
    """Its network within the budget by our count, and the bound that it was given."""
    checkpoint = work.directory / "fastnas.pth"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    bound, best = 2.0 * work.limit, None
    for _ in range(_TRIES):
        small = _prune(network, bound, checkpoint, work)
        flops, _ = _counted(small, work)
        if flops <= work.limit and (best is None or flops > best[0]):
            best = flops, small, bound
        if _CLOSE * work.limit <= flops <= work.limit:
            break
        # A little below the bound: its widths come in steps.
        bound *= 0.995 * work.limit / flops
    if best is None:
        raise StageError("FastNAS reached no network within the budget")
    return best[1], best[2]


def _counted(network: nn.Module, work: Work) -> tuple[int, int]:
    return count(copy.deepcopy(network).cpu(), work.example())


def _prune(network: nn.Module, bound: float, checkpoint: Path, work: Work) -> nn.Module:
    batches = _batches(work)
    images = sum(len(labels) for _, labels in batches)

    def score(candidate: nn.Module) -> float:
        # Its hook on eval() estimates the batch-norm statistics of the candidate on those batches.
        judged_on(work.dataset.train).judged += images
        split = work.dataset.search_val
        return evaluate(candidate.eval(), split.ordered(max(work.batch, 256))).accuracy

    with _quiet():
        import modelopt.torch.prune as mtp

        small: nn.Module
        small, _ = mtp.prune(
            copy.deepcopy(network).to(memory_format=torch.contiguous_format),  # it takes no other
            mode=[("fastnas", _config(work.job.settings.channel_divisor))],
            constraints={"flops": bound},
            dummy_input=work.example().to(work.where),
            config={
                "data_loader": batches,
                "score_func": score,
                "checkpoint": str(checkpoint),
                "verbose": False,
            },
        )
    return small


def _batches(work: Work) -> list[Batch]:
    """Training images for batch-norm statistics, in as many batches as it insists on."""
    size = -(-work.job.settings.recalibration_images // _BATCHES)
    split = work.dataset.train
    batches = list(split.ordered(size, limit=min(size * _BATCHES, split.num_images)))
    return (batches * _BATCHES)[:_BATCHES]


def _config(divisor: int) -> dict[str, Any]:
    """Its default rules with another step of widths."""
    from modelopt.torch.prune.fastnas import FastNASConfig

    rules: dict[str, Any] = FastNASConfig().model_dump()
    for rule in rules.values():
        for name in ("channel_divisor", "feature_divisor"):
            if name in rule["*"]:
                rule["*"][name] = divisor
    return rules


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
