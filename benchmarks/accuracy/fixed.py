"""Methods without a search of their own: the target network, the uniformly narrow one, random plans."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.accuracy.work import Outcome, Work, fresh
from jstc.plan import Plan

__all__ = ["random", "target", "uniform"]

_LEAST_WIDTH = 0.1
_MOST_DRAWS = 1000


def target(work: Work) -> Outcome:
    """The target network with all of the training."""
    cost = work.channels.cost()
    network = work.target()
    steps = work.ledger.steps(cost.flops, work.batch)
    split = work.dataset.train_full
    work.train(network, split=split, steps=steps, phase="train", name="train", flops=cost.flops)
    return Outcome(work.tested(network), cost.flops, cost.params, network)


def uniform(work: Work) -> Outcome:
    """A network with one share of every group at the budget, from scratch, with all of the training."""
    return _from_scratch(work, work.channels.uniform_plan(flops=work.limit))


def random(work: Work) -> Outcome:
    """Random plans at the budget, each trained a little; the best on search-validation starts anew.

    Candidates train on the training part only; what is chosen trains on all training images.
    """
    settings = work.job.settings
    best: tuple[float, int, Plan] | None = None
    scores = []
    for number, plan in zip(range(settings.candidates), _plans(work), strict=False):
        name, flops = f"candidate-{number}", work.channels.cost(plan).flops
        share = settings.candidates_share / settings.candidates
        steps = work.ledger.steps(flops, work.batch, share=share)
        network = fresh(work, plan, name=name)
        work.train(network, split=work.dataset.train, steps=steps, phase="search", name=name, flops=flops)
        scores.append(work.scored(network, work.dataset.search_val))
        if best is None or scores[-1] > best[0]:
            best = scores[-1], number, plan
    assert best is not None
    extra = {"candidates": scores, "chosen": best[1]}
    return _from_scratch(work, best[2], search_val=best[0], extra=extra)


def _from_scratch(
    work: Work, plan: Plan, *, search_val: float | None = None, extra: dict[str, object] | None = None
) -> Outcome:
    cost = work.channels.cost(plan)
    network = fresh(work, plan, name="train")
    steps = work.ledger.steps(cost.flops, work.batch)
    split = work.dataset.train_full
    work.train(network, split=split, steps=steps, phase="train", name="train", flops=cost.flops)
    counts = {"counts": plan.counts, **(extra or {})}
    return Outcome(work.tested(network), cost.flops, cost.params, network, search_val, counts)


def _plans(work: Work) -> Iterator[Plan]:
    """Random plans at the budget, other ones for every seed, none with a group below a tenth of its width.

    Where the network has no such plans, the last ones drawn have to do.
    """
    first = 1_000_000 * work.recipe.seed
    for number in range(_MOST_DRAWS):
        plan = work.channels.random_plan(flops=work.limit, seed=first + number)
        least = min(count / work.channels.widths[name] for name, count in plan.counts.items())
        if least >= _LEAST_WIDTH or number >= _MOST_DRAWS - work.job.settings.candidates:
            yield plan
