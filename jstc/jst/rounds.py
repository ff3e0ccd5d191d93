"""The rounds of a search, one after the other: sample, train, judge, update; saved, resumed, rolled back.

A round begins with a plan cut from the target network and ends when that is put back. Until then the target
does not change, so a round that diverges starts again from it; and a checkpoint in the middle of a round
holds the state at its start, and beside it the sub-network in training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jstc.core.progress import Progress
from jstc.errors import DivergedError
from jstc.jst.proposer import Proposal, Proposer
from jstc.jst.round import RoundContext, RoundFigures, RoundProgress, judge, to_call, train_round
from jstc.jst.selection import mended
from jstc.jst.spanning import ImageLooks
from jstc.jst.state import State, fingerprint, read_plan, require_same
from jstc.jst.subnetwork import SubNetwork, cut
from jstc.jst.threshnet import Choice
from jstc.jst.turns import Turn, Turns, shared_tensors
from jstc.plan import Plan
from jstc.train import checkpoint, collectives, device, kernels, metrics
from jstc.train.checkpoint import Checkpoints
from jstc.train.loop import computes_right
from jstc.train.metrics import RunningMetrics, TrainingMonitor, open_history

__all__ = ["Rounds", "evaluate_round", "record"]


@dataclass
class _Current(Turn):
    """The round at work, and how far it is."""

    progress: RoundProgress = field(default_factory=RoundProgress)


class Rounds:
    """The rounds of a search in a directory, from where its checkpoint left off."""

    def __init__(
        self, state: State, proposer: Proposer, context: RoundContext, *, directory: Path, progress: Progress
    ) -> None:
        self.state = state
        self._proposer, self._context, self._progress = proposer, context, progress
        self._fingerprint = fingerprint(context.recipe, state.target.channels)
        shown = context.recipe.tensorboard and collectives.is_first()
        self._history = open_history(directory, index="round", tensorboard=shown)
        settings = context.recipe.checkpoint
        self._saved = Checkpoints(
            directory / "checkpoint.safetensors",
            keep=settings.keep,
            check=lambda meta, path: require_same(meta.get("identity"), self._fingerprint, path),
            warn=progress.message,
        )
        self._monitor = TrainingMonitor(settings, self._save_in_the_middle)
        self._turns = Turns(state, proposer, self._new_sub, self._loss)
        self._current: _Current | None = None
        self._resume()

    @property
    def left(self) -> bool:
        """Whether there are more rounds, which there are not once the search has settled."""
        return self.state.round < self._context.recipe.search.rounds and not self.state.settled

    def next(self) -> dict[str, Any]:
        """A round, or the rest of one; returns its line of the history. It is saved."""
        self._since = time.perf_counter()
        current, state = self._begin(), self.state
        figures = self._train(current)
        earned = self._evaluate(current)
        told = self._turns.tell(
            current, earned, images=figures.images, seconds=lambda: time.perf_counter() - self._since
        )
        line = record(state, current.proposal, figures, self._lowered)
        line |= {"accuracy": earned, "advantage": told.advantage, "overlap": told.overlap}
        self._current = None
        collectives.decided(lambda: self._write(line))
        self._monitor.at_rest()
        return line

    def at_rest(self) -> None:
        """Between two parts of work that are saved: stop if asked to."""
        self._monitor.at_rest()

    def finish(self) -> None:
        """The search is over."""
        if collectives.is_first():
            self._saved.drop_older()

    @property
    def _lowered(self) -> RoundContext:
        """The context with the learning rates after the rollbacks so far."""
        train = self._context.recipe.train
        schedule = metrics.lowered(self._context.schedule, train, self.state.rollbacks)
        return replace(self._context, schedule=schedule)

    def _begin(self) -> _Current:
        """The round that was taken up in the middle, or a new one."""
        if self._current is None:
            turn = self._turns.ask()
            self._current = _Current(turn.proposal, turn.advantage, turn.sub)
            self._scaler = self._scaler_now()
        return self._current

    def _loss(self, plan: Plan) -> float:
        """Loss of a plan at the weights as they are."""
        recipe = self._context.recipe
        sub = cut(self.state.target, plan, recipe.train)
        return judge(sub, self._context, limit=recipe.search.candidate_images).loss

    def _new_sub(self, plan: Plan) -> SubNetwork:
        """The sub-network of a round; mended in a budget's first one, of given weights."""
        recipe, state = self._context.recipe, self.state
        first = state.round < len(state.tracks)
        if not first or recipe.weights is None or not recipe.search.reconstruction_images:
            return cut(state.target, plan, recipe.train)
        found = mended(plan, state.round, state, self._context)
        if found.mended is not None and not state.rollbacks:
            self._progress.message(found.mended.sentence)
        return found.sub

    def _train(self, current: _Current) -> RoundFigures:
        while True:
            context = self._lowered

            def after_step(step: int, metrics: RunningMetrics, context: RoundContext = context) -> None:
                kernels.say(self._progress.message)
                self._monitor.after_step(step, metrics, context.schedule)

            try:
                return train_round(
                    current.sub,
                    context,
                    self.state.round,
                    progress=current.progress,
                    called=self._compiled(current),
                    on_step=after_step,
                )
            except DivergedError as error:
                self._roll_back(current, error)

    def _compiled(self, current: _Current) -> nn.Module | None:
        """The sub-network compiled, where that may pay: when its widths are those of the round before.

        It takes as long as hundreds of steps. Not where a kernel is wrong and another is taken in its place.
        """
        before, counts = self.state.track.plan, current.proposal.plan.counts
        if not self._context.recipe.search.compile or before is None or before.counts != counts:
            return None
        called, context = to_call(current.sub, self._context), self._context
        numerics, batch = context.options.criterion.numerics, context.recipe.train.batch_size
        if not computes_right(called, numerics, (batch, *context.dataset.info.input_shape)):
            kernels.say_uncompiled("search.compile", self._progress.message)
            return None
        network: nn.Module = device.compiled(called)
        return network

    def _roll_back(self, current: _Current, error: DivergedError) -> None:
        """To the start of the round: the target network has not changed since."""
        state, settings = self.state, self._context.recipe.train
        state.rollbacks += 1
        to = f"the start of round {state.round + 1}"
        precision = device.precision(settings, state.target.alpha.device)
        self._progress.message(
            metrics.rolled_back(error, settings, state.rollbacks, to=to, precision=precision)
        )
        plan = current.proposal.plan
        current.sub = self._new_sub(plan)
        current.progress = RoundProgress()
        if state.scaler is not None:
            state.scaler.load_state_dict(self._scaler)

    def _evaluate(self, current: _Current) -> float | None:
        try:
            return evaluate_round(current.sub, current.proposal, self.state, self._context)
        except KeyboardInterrupt:
            # Judging makes the statistics that it changes anew when it is done again.
            if collectives.world() == 1:
                self._save_in_the_middle()
            raise

    def _scaler_now(self) -> dict[str, Any]:
        return {} if self.state.scaler is None else dict(self.state.scaler.state_dict())

    # Saving: after a round, and in the middle of one

    def _write(self, line: Mapping[str, Any]) -> None:
        # The history first: a line too many is dropped on resume, a line too few would be missing.
        self._history.append(line)
        self._saved.save(self.state.tensors(), {"identity": self._fingerprint, **self.state.document()})

    def _save_in_the_middle(self) -> None:
        assert self._current is not None
        progress = self._current.progress.to_dict()  # sums over all processes, so all of them ask for it
        collectives.decided(lambda: self._write_middle(progress))

    def _write_middle(self, progress: Mapping[str, Any]) -> None:
        """The state at the start of the round, and the sub-network in training."""
        current, state = self._current, self.state
        assert current is not None
        plan, thresholds = current.proposal.plan.to_dict(), current.proposal.thresholds
        document = {
            **progress,
            "plan": plan,
            "thresholds": thresholds,
            "advantage": current.advantage,
            "scaler": self._scaler_now(),
        }
        meta = {"identity": self._fingerprint, **state.document(), "middle": document}
        meta["seconds"] += time.perf_counter() - self._since
        if state.scaler is not None:
            meta["scaler"] = self._scaler
        choice = current.proposal.choice
        chosen = {} if choice is None else choice.tensors()
        parts = checkpoint.join(trial=current.sub.tensors(), choice=chosen)
        self._saved.save({**state.tensors(), **parts}, meta)

    # Resuming: the policy's state is read by process 0 alone, everything else is sent to all

    def _resume(self) -> None:
        state, context = self.state, self._context
        saved = collectives.from_first(self._saved.load)
        collectives.copy_from_first(shared_tensors(state).values())
        if saved is None:  # what a ranking measures of the network as it was given is in every checkpoint
            looks = ImageLooks(context.dataset.train, context.recipe.train.channels_last)
            self._proposer.importance.prepare(state.target, looks, self._progress)
        else:
            tensors, meta = saved
            state.restore(tensors, meta)
            if "middle" in meta:
                self._take_up(tensors, meta["middle"])
        if collectives.is_first():
            self._history.truncate(state.round)

    def _take_up(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Go on in the middle of a round.

        Its sub-network is cut from the target as it was at the start, and then given the tensors that it had;
        the plan and what the policy chose are as they were, for they were drawn before it learned.
        """
        state, recipe = self.state, self._context.recipe
        chosen = checkpoint.part(tensors, "choice")
        proposal = Proposal(
            read_plan(document["plan"], state.target.channels.widths),
            state.growth.at(state.round),
            document["thresholds"],
            Choice.of(chosen) if chosen else None,
        )
        sub = cut(state.target, proposal.plan, recipe.train)
        sub.restore(checkpoint.part(tensors, "trial"))
        self._current = _Current(proposal, document["advantage"], sub, RoundProgress.of(document))
        # A rollback needs the scaler of the round's start, the training the one of where it stopped.
        self._scaler = self._scaler_now()
        if state.scaler is not None:
            state.scaler.load_state_dict(document["scaler"])


# A round after its training: whether it is judged, and what it reports


def evaluate_round(sub: SubNetwork, proposal: Proposal, state: State, context: RoundContext) -> float | None:
    """Accuracy after the round's training; None for most rounds whose plan can neither win nor teach.

    Judging costs about as much as a third of a round. Below the budget it is to be shown, and for no more.
    """
    search, turn = context.recipe.search, state.round // len(state.tracks)
    if proposal.phase.below and turn % search.eval_every:
        return None
    return judge(sub, context, limit=search.eval_images).accuracy


def record(state: State, proposal: Proposal, figures: RoundFigures, context: RoundContext) -> dict[str, Any]:
    """The line of the history of the round that is just over."""
    cost = state.target.channels.cost(proposal.plan)
    alpha = state.target.alpha
    return {
        "round": state.round - 1,
        "budget": context.recipe.labels[(state.round - 1) % len(state.tracks)],
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
        "lr": context.schedule.at(state.round * context.steps - 1),
        "seconds": round(state.last_seconds, 3),
    }
