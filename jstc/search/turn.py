"""What a round decides before and after its training, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jstc.search.anneal import phase
from jstc.search.archive import read_plan
from jstc.search.policy import Proposal, Proposer
from jstc.search.round import RoundFigures, Work, judge
from jstc.search.state import State
from jstc.search.updater import Trial, cut
from jstc.train import distributed

__all__ = ["choose", "learnt", "record", "reward"]


def reward(sub: Trial, proposal: Proposal, state: State, work: Work) -> float | None:
    """Accuracy after the round's training; None for most rounds whose plan can neither win nor teach.

    Judging costs about as much as a third of a round. Below the budget it is for the eye alone.
    """
    search, turn = work.recipe.search, state.round // len(state.courses)
    if proposal.phase.below and turn % search.judge_every:
        return None
    return judge(sub, work, limit=search.reward_images).accuracy


def choose(state: State, proposer: Proposer, work: Work) -> tuple[Proposal, float | None]:
    """The plan to train, of several the best at the weights as they are; and what the policy learnt by it."""
    search = work.recipe.search
    proposals = _proposed(state, proposer, work)
    if len(proposals) == 1:  # with `candidates: 1` the policy learns after its training (Rounds.next)
        return proposals[0], None
    # By the loss: on a few hundred images it tells plans apart where the accuracy is too coarse.
    subs = [cut(state.target, proposal.plan, work.recipe.train) for proposal in proposals]
    rewards = [-judge(sub, work, limit=search.candidate_images).loss for sub in subs]
    if not all(map(math.isfinite, rewards)):  # nothing to learn from; training will say what is wrong
        return proposals[0], None
    best = max(range(len(rewards)), key=rewards.__getitem__)
    return proposals[best], learnt(proposer, proposals, rewards, state.round)


def learnt(
    proposer: Proposer, proposals: Sequence[Proposal], rewards: Sequence[float], round_: int
) -> float | None:
    """The largest advantage that the policy learnt by, which of several processes the first one has."""
    return proposer.learn(proposals, rewards, round_) if distributed.is_first() else None


def _proposed(state: State, proposer: Proposer, work: Work) -> list[Proposal]:
    """The plans among which the round chooses; of several processes, those of the first."""
    now = phase(work.recipe.search, state.round, budgets=len(state.courses))
    own: list[Proposal] = []

    def draw() -> list[list[Any]]:
        own[:] = proposer.candidates(state.target, now, state.round, state.course.thresholds)
        return [[proposal.plan.to_dict(), proposal.thresholds] for proposal in own]

    drawn = distributed.decided(draw)
    groups = state.target.channels.widths
    proposals = own or [Proposal(read_plan(plan, groups), now, values, None) for plan, values in drawn]
    hashes = " ".join(proposal.plan.hash for proposal in proposals)
    distributed.require_same(hashes, f"the plan of round {state.round + 1}")
    return proposals


def record(state: State, proposal: Proposal, figures: RoundFigures, work: Work) -> dict[str, Any]:
    """The line of the history of the round that is just over."""
    cost = state.target.channels.cost(proposal.plan)
    alpha = state.target.alpha
    return {
        "round": state.round - 1,
        "budget": work.recipe.labels[(state.round - 1) % len(state.courses)],
        "phase": "coarse" if proposal.phase.coarse else "fine",
        "loss": figures.loss,
        "train_accuracy": figures.accuracy,
        "images": figures.images,
        "flops": cost.flops,
        "params": cost.params,
        "sigma": proposal.phase.sigma,
        "tau": proposal.phase.tau,
        "thresholds": [round(r, 6) for r in proposal.thresholds],
        "counts": list(proposal.plan.counts.values()),
        "plan_hash": proposal.plan.hash,
        "alpha_spread": float(alpha.std()) if len(alpha) > 1 else 0.0,
        "lr": work.schedule.at(state.round * work.steps - 1),
        "seconds": round(state.last_seconds, 3),
    }
