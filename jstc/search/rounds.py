"""The rounds of a search, one after the other: sample, train, judge, update; saved, resumed, rolled back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jstc.errors import DivergedError
from jstc.progress import Progress
from jstc.search.anneal import phase
from jstc.search.archive import read_plan
from jstc.search.identity import identity, require_same
from jstc.search.middle import Middle
from jstc.search.policy import Proposal, Proposer
from jstc.search.round import RoundFigures, Work, to_call, train_round
from jstc.search.state import State
from jstc.search.taylor import num_images, taylor
from jstc.search.threshnet import Choice
from jstc.search.turn import choose, learnt, record, reward
from jstc.search.updater import Trial, cut, put_back
from jstc.train import checkpoint, distributed, health, replicas
from jstc.train.checkpoints import Checkpoints
from jstc.train.compiling import compiled
from jstc.train.scalars import open_history
from jstc.train.watch import Watch

__all__ = ["Rounds"]


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
        shown = work.recipe.tensorboard and distributed.is_first()
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
        replicas.require_equal(_trained(state), f"the target network after round {state.round + 1}")
        advantage = begun.advantage
        if self._work.recipe.search.candidates == 1 and earned is not None:
            advantage = learnt(self._proposer, [begun.proposal], [earned], state.round)
        spent = time.perf_counter() - self._since
        overlap = state.advance(begun.proposal.plan, earned, images=figures.images, seconds=spent)
        line = record(state, begun.proposal, figures, self._lowered)
        line |= {"accuracy": earned, "advantage": advantage, "overlap": overlap}
        self._begun = None
        distributed.decided(lambda: self._write(line))
        self._watch.at_rest()
        return line

    def finish(self) -> None:
        """The search is over."""
        if distributed.is_first():
            self._saved.drop_older()

    @property
    def _lowered(self) -> Work:
        """The work with the learning rates after the rollbacks so far."""
        train = self._work.recipe.train
        return replace(self._work, schedule=health.lowered(self._work.schedule, train, self.state.rollbacks))

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
        self._progress.message(health.rolled_back(error, settings, state.rollbacks, to=to))
        begun.sub = cut(state.target, begun.proposal.plan, settings)
        begun.middle = Middle(watch=self._watch)
        if state.scaler is not None:
            state.scaler.load_state_dict(self._scaler)

    def _judge(self, begun: _Begun) -> float | None:
        try:
            return reward(begun.sub, begun.proposal, self.state, self._work)
        except KeyboardInterrupt:
            # Judging makes the statistics that it changes anew when it is done again.
            if distributed.world() == 1:
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
        distributed.decided(lambda: self._write_middle(middle))

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
        saved = distributed.from_first(self._saved.load)
        distributed.copy_from_first(_trained(self.state).values())
        if saved is None and num_images(self._work.recipe.search, self._work.dataset.train):
            self.state.target.taylor.copy_(taylor(self.state.target, self._work, self._progress))
        if saved is not None:
            tensors, meta = saved
            self.state.restore(tensors, meta)
            if "middle" in meta:
                self._take_up(tensors, meta["middle"])
        if distributed.is_first():
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
