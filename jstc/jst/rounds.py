"""The rounds of a search, one after the other: sample, train, judge, update; saved, resumed, rolled back."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jstc.core.progress import Progress
from jstc.errors import DivergedError
from jstc.jst.importance import num_images, taylor
from jstc.jst.phases import phase
from jstc.jst.proposer import Proposal, Proposer
from jstc.jst.round import Middle, RoundFigures, Work, judge, to_call, train_round
from jstc.jst.state import State, identity, read_plan, require_same
from jstc.jst.subnetwork import Trial, cut, put_back
from jstc.jst.threshnet import Choice
from jstc.train import checkpoint, collectives, ddp, monitor
from jstc.train.checkpoint import Checkpoints
from jstc.train.device import compiled
from jstc.train.metrics import open_history
from jstc.train.monitor import Watch

__all__ = ["Rounds", "choose", "learnt", "record", "reward"]


@dataclass
class _Begun:
    """A round at work: what it tries, what the policy learnt by choosing that, and how far it is."""

    proposal: Proposal
    advantage: float | None
    sub: Trial
    middle: Middle


class Rounds:
    """The rounds of a search in a directory, from where its checkpoint left off."""

    def __init__(
        self, state: State, proposer: Proposer, work: Work, *, directory: Path, progress: Progress
    ) -> None:
        self.state = state
        self._proposer, self._work, self._progress = proposer, work, progress
        self._identity = identity(work.recipe, state.target.channels)
        shown = work.recipe.tensorboard and collectives.is_first()
        self._history = open_history(directory, index="round", tensorboard=shown)
        settings = work.recipe.checkpoint
        self._saved = Checkpoints(
            directory / "checkpoint.safetensors",
            keep=settings.keep,
            check=lambda meta, path: require_same(meta.get("identity"), self._identity, path),
            warn=progress.message,
        )
        self._watch = Watch(settings, self._save_in_the_middle)
        self._begun: _Begun | None = None
        self._resume()

    @property
    def left(self) -> bool:
        """Whether there are more rounds, which there are not once the search has settled."""
        return self.state.round < self._work.recipe.search.rounds and not self.state.settled

    def next(self) -> dict[str, Any]:
        """A round, or the rest of one; returns its line of the history. It is saved."""
        self._since = time.perf_counter()
        begun, state = self._begin(), self.state
        figures = self._train(begun)
        earned = self._judge(begun)
        put_back(begun.sub, state.target)
        ddp.require_equal(_trained(state), f"the target network after round {state.round + 1}")
        advantage = begun.advantage
        if self._work.recipe.search.candidates == 1 and earned is not None:
            advantage = learnt(self._proposer, [begun.proposal], [earned], state.round)
        spent = time.perf_counter() - self._since
        overlap = state.advance(begun.proposal.plan, earned, images=figures.images, seconds=spent)
        line = record(state, begun.proposal, figures, self._lowered)
        line |= {"accuracy": earned, "advantage": advantage, "overlap": overlap}
        self._begun = None
        collectives.decided(lambda: self._write(line))
        self._watch.at_rest()
        return line

    def finish(self) -> None:
        """The search is over."""
        if collectives.is_first():
            self._saved.drop_older()

    @property
    def _lowered(self) -> Work:
        """The work with the learning rates after the rollbacks so far."""
        train = self._work.recipe.train
        return replace(self._work, schedule=monitor.lowered(self._work.schedule, train, self.state.rollbacks))

    def _begin(self) -> _Begun:
        """The round that was taken up in the middle, or a new one."""
        if self._begun is None:
            state = self.state
            proposal, advantage = choose(state, self._proposer, self._work)
            sub = cut(state.target, proposal.plan, self._work.recipe.train)
            state.course.thresholds = None if proposal.choice is None else proposal.choice.index.tolist()
            self._begun = _Begun(proposal, advantage, sub, Middle(watch=self._watch))
            self._scaler = self._scaler_now()
        return self._begun

    def _train(self, begun: _Begun) -> RoundFigures:
        while True:
            try:
                return train_round(
                    begun.sub,
                    self._lowered,
                    self.state.round,
                    middle=begun.middle,
                    called=self._compiled(begun),
                )
            except DivergedError as error:
                self._roll_back(begun, error)

    def _compiled(self, begun: _Begun) -> nn.Module | None:
        """The sub-network compiled, where that may pay: when its widths are those of the round before.

        It takes as long as hundreds of steps.
        """
        before, counts = self.state.course.plan, begun.proposal.plan.counts
        if not self._work.recipe.search.compile or before is None or before.counts != counts:
            return None
        network: nn.Module = compiled(to_call(begun.sub, self._work))
        return network

    def _roll_back(self, begun: _Begun, error: DivergedError) -> None:
        """To the start of the round: the target network has not changed since."""
        state, settings = self.state, self._work.recipe.train
        state.rollbacks += 1
        to = f"the start of round {state.round + 1}"
        self._progress.message(monitor.rolled_back(error, settings, state.rollbacks, to=to))
        begun.sub = cut(state.target, begun.proposal.plan, settings)
        begun.middle = Middle(watch=self._watch)
        if state.scaler is not None:
            state.scaler.load_state_dict(self._scaler)

    def _judge(self, begun: _Begun) -> float | None:
        try:
            return reward(begun.sub, begun.proposal, self.state, self._work)
        except KeyboardInterrupt:
            # Judging makes the statistics that it changes anew when it is done again.
            if collectives.world() == 1:
                self._save_in_the_middle()
            raise

    def _scaler_now(self) -> dict[str, Any]:
        return {} if self.state.scaler is None else dict(self.state.scaler.state_dict())

    def _write(self, line: Mapping[str, Any]) -> None:
        # The history first: a line too many is dropped on resume, a line too few would be missing.
        self._history.append(line)
        self._saved.save(self.state.tensors(), {"identity": self._identity, **self.state.document()})

    def _save_in_the_middle(self) -> None:
        assert self._begun is not None
        middle = self._begun.middle.to_dict()
        collectives.decided(lambda: self._write_middle(middle))

    def _write_middle(self, middle: Mapping[str, Any]) -> None:
        """The state at the start of the round, and the sub-network in training."""
        begun, state = self._begun, self.state
        assert begun is not None
        plan, thresholds = begun.proposal.plan.to_dict(), begun.proposal.thresholds
        document = {
            **middle,
            "plan": plan,
            "thresholds": thresholds,
            "advantage": begun.advantage,
            "scaler": self._scaler_now(),
        }
        meta = {"identity": self._identity, **state.document(), "middle": document}
        meta["seconds"] += time.perf_counter() - self._since
        if state.scaler is not None:
            meta["scaler"] = self._scaler
        choice = begun.proposal.choice
        chosen = {} if choice is None else {"states": choice.states, "index": choice.index}
        parts = checkpoint.join(trial=begun.sub.tensors(), choice=chosen)
        self._saved.save({**state.tensors(), **parts}, meta)

    def _resume(self) -> None:
        saved = collectives.from_first(self._saved.load)
        collectives.copy_from_first(_trained(self.state).values())
        if saved is None and num_images(self._work.recipe.search, self._work.dataset.train):
            self.state.target.taylor.copy_(taylor(self.state.target, self._work, self._progress))
        if saved is not None:
            tensors, meta = saved
            self.state.restore(tensors, meta)
            if "middle" in meta:
                self._take_up(tensors, meta["middle"])
        if collectives.is_first():
            self._history.truncate(self.state.round)

    def _take_up(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Go on in the middle of a round."""
        state, recipe = self.state, self._work.recipe
        chosen = checkpoint.part(tensors, "choice")
        proposal = Proposal(
            read_plan(document["plan"], state.target.channels.widths),
            phase(recipe.search, state.round, budgets=len(state.courses)),
            document["thresholds"],
            Choice(chosen["states"], chosen["index"]) if chosen else None,
        )
        sub = cut(state.target, proposal.plan, recipe.train)
        sub.restore(checkpoint.part(tensors, "trial"))
        middle = Middle.of(document, self._watch)
        self._begun = _Begun(proposal, document["advantage"], sub, middle)
        self._scaler = self._scaler_now()
        if state.scaler is not None:
            state.scaler.load_state_dict(document["scaler"])


def _trained(state: State) -> dict[str, Tensor]:
    """The tensors that all of several processes have; the policy is the first one's alone."""
    return {name: tensor for name, tensor in state.tensors().items() if not name.startswith("policy.")}


# What a round decides before and after its training, and what it reports.


def reward(sub: Trial, proposal: Proposal, state: State, work: Work) -> float | None:
    """Accuracy after the round's training; None for most rounds whose plan can neither win nor teach.

    Judging costs about as much as a third of a round. Below the budget it is for the eye alone.
    """
    search, turn = work.recipe.search, state.round // len(state.courses)
    if proposal.phase.below and turn % search.eval_every:
        return None
    return judge(sub, work, limit=search.eval_images).accuracy


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
    return proposer.learn(proposals, rewards, round_) if collectives.is_first() else None


def _proposed(state: State, proposer: Proposer, work: Work) -> list[Proposal]:
    """The plans among which the round chooses; of several processes, those of the first."""
    now = phase(work.recipe.search, state.round, budgets=len(state.courses))
    own: list[Proposal] = []

    def draw() -> list[list[Any]]:
        own[:] = proposer.candidates(state.target, now, state.round, state.course.thresholds)
        return [[proposal.plan.to_dict(), proposal.thresholds] for proposal in own]

    drawn = collectives.decided(draw)
    groups = state.target.channels.widths
    proposals = own or [Proposal(read_plan(plan, groups), now, values, None) for plan, values in drawn]
    hashes = " ".join(proposal.plan.hash for proposal in proposals)
    collectives.require_same(hashes, f"the plan of round {state.round + 1}")
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
