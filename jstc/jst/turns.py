"""The turns of a search: which plan is next, and what the training of its sub-network teaches.

A search asks and is told. `Turns.ask` chooses a plan and has its sub-network cut out of the target network;
whoever trained that gives it back to `Turns.tell`, with what it earned. No turn knows of data, of losses or
of a training loop: `jstc.jst.rounds` has its own, `jstc.JointSearch` leaves it to the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jstc.jst.proposer import Proposal, Proposer
from jstc.jst.state import Entry, State, read_plan
from jstc.jst.subnetwork import SubNetwork, put_back
from jstc.plan import Plan
from jstc.train import collectives

__all__ = ["Finals", "Told", "Turn", "Turns", "choose", "finalists", "ranking", "shared_tensors"]


@dataclass
class Turn:
    """A sub-network in somebody's hands: what it is a try of, and what the policy learnt by choosing that."""

    proposal: Proposal
    advantage: float | None
    sub: SubNetwork


@dataclass(frozen=True)
class Told:
    """What a turn came to: overlap with the plan before, the policy's largest advantage; None without."""

    overlap: float | None
    advantage: float | None


@dataclass
class Turns:
    """Turns of a search, one after the other, from what `state` holds.

    `make` cuts the sub-network of the plan that was chosen, `loss` judges a plan at the weights as they are
    (None: plans are not compared before they are trained).
    """

    state: State
    proposer: Proposer
    make: Callable[[Plan], SubNetwork]
    loss: Callable[[Plan], float] | None

    def ask(self) -> Turn:
        """The next turn. Nothing changes but what the policy learns by comparing plans."""
        proposal, advantage = choose(self.state, self.proposer, self.loss)
        return Turn(proposal, advantage, self.make(proposal.plan))

    def tell(self, turn: Turn, earned: float | None, *, images: int, seconds: Callable[[], float]) -> Told:
        """A turn is over: its tensors go back to where they came from, and the policy learns what it earned.

        `earned` is better when it is larger, None where nobody judged. Raises `StageError` when processes
        have drifted apart.
        """
        state, proposal = self.state, turn.proposal
        collectives.copy_from_first([turn.sub.slopes])  # GPUs may have added them in another order
        put_back(turn.sub, state.target)
        collectives.require_equal(shared_tensors(state), f"the target network after round {state.round + 1}")
        advantage = turn.advantage
        if self.proposer.thresholds.learns_after_training and earned is not None:
            advantage = _learn(self.proposer, [proposal], [earned], state.round)
        overlap = state.advance(proposal.plan, earned, images=images, seconds=seconds())
        return Told(overlap, advantage)


def shared_tensors(state: State) -> dict[str, Tensor]:
    """The tensors that all of several processes have; the policy is the first one's alone."""
    return {name: tensor for name, tensor in state.tensors().items() if not name.startswith("policy.")}


# Before a turn: several plans are compared by their loss, and a policy learns from that


def choose(
    state: State, proposer: Proposer, loss: Callable[[Plan], float] | None
) -> tuple[Proposal, float | None]:
    """The plan to train, of several the best at the weights as they are; and what the policy learnt by it."""
    proposals = _proposed(state, proposer)
    if len(proposals) == 1 or loss is None:
        return proposals[0], None
    # By the loss: on a few hundred images it tells plans apart where the accuracy is too coarse.
    rewards = [-loss(proposal.plan) for proposal in proposals]
    if not all(map(math.isfinite, rewards)):  # nothing to learn from; training will say what is wrong
        return proposals[0], None
    best = max(range(len(rewards)), key=rewards.__getitem__)
    return proposals[best], _learn(proposer, proposals, rewards, state.round)


def _proposed(state: State, proposer: Proposer) -> list[Proposal]:
    """The plans among which the turn chooses; of several processes, those of the first."""
    now = state.growth.at(state.round)
    own: list[Proposal] = []

    def draw() -> list[list[Any]]:
        own[:] = proposer.candidates(state.target, now, state.round)
        return [[proposal.plan.to_dict(), proposal.thresholds] for proposal in own]

    drawn = collectives.decided(draw)
    groups = state.target.channels.widths
    proposals = own or [Proposal(read_plan(plan, groups), now, values, None) for plan, values in drawn]
    hashes = " ".join(proposal.plan.hash for proposal in proposals)
    collectives.require_same(hashes, f"the plan of round {state.round + 1}")
    return proposals


def _learn(
    proposer: Proposer, proposals: Sequence[Proposal], rewards: Sequence[float], round_: int
) -> float | None:
    """The largest advantage that the policy learnt by, which of several processes the first one has."""
    return proposer.learn(proposals, rewards, round_) if collectives.is_first() else None


# After the last turn


def finalists(state: State, proposer: Proposer, budget: int = 0) -> list[Entry]:
    """Plans to judge once more, by a budget's number; of several processes, those of the first.

    The one without perturbation, then the archive's, the newest first.
    """

    def found() -> list[list[Any]]:
        settled = Entry(proposer.final(state.target, budget).plan, 0.0, state.round)
        entries = state.tracks[budget].archive.entries
        others = [e for e in entries if e.plan.hash != settled.plan.hash]
        candidates = [settled, *sorted(others, key=lambda e: -e.round)]
        return [[e.plan.to_dict(), e.accuracy, e.round] for e in candidates]

    groups = state.target.channels.widths
    return [Entry(read_plan(plan, groups), *rest) for plan, *rest in collectives.decided(found)]


@dataclass(frozen=True)
class Finals:
    """Finalists that were told: scores by the hash of their plan, and the tensors of the `best` of them."""

    scores: Mapping[str, float] = field(default_factory=dict)
    best: str | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def told(self, plan: Plan, score: float, tensors: Mapping[str, Tensor]) -> Finals:
        """With one more; of several processes all have the tensors of the first one."""
        scores = {**self.scores, plan.hash: score}
        if self.best is not None and score <= self.scores[self.best]:
            return Finals(scores, self.best, self.tensors)
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        collectives.copy_from_first(own.values())
        return Finals(scores, plan.hash, own)


def ranking(plan: Plan, state: State, proposer: Proposer) -> list[NDArray[np.int64]]:
    """Channels of every group, the first to keep first: a plan's own, then others, by falling importance."""
    found, scores = [], proposer.importance.scores(state.target)
    for group, own in zip(state.target.channels.groups, scores, strict=True):
        kept = np.isin(np.arange(group.width), plan.kept[group.name])
        found.append(np.lexsort((-own, ~kept)))
    return found
