"""Plain training of the target network, and real rounds of the search, turn by turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.throughput.clock import JUDGING, STEPS, Stopwatch, watched
from benchmarks.throughput.setups import Subject
from jstc.core.progress import Silent
from jstc.jst.proposer import Proposer
from jstc.jst.round import RoundContext
from jstc.jst.rounds import Rounds
from jstc.jst.space import resolve_budgets
from jstc.jst.state import State
from jstc.train import collectives
from jstc.train.job import TrainState
from jstc.train.loop import stream, train_steps
from jstc.train.one_step import step_options
from jstc.train.schedule import Schedule

__all__ = ["Plain", "Round", "Searching"]

_LONG = 1_000_000


class Plain:
    """Training of a whole network as finetune and the baseline do it."""

    def __init__(self, subject: Subject, *, batch: int | None = None) -> None:
        self.subject, self.network = subject, subject.network()
        recipe, dataset = subject.recipe, subject.dataset
        self.batch = min(batch or recipe.train.batch_size, dataset.train.num_images)
        self._settings = recipe.train.model_copy(update={"batch_size": self.batch})
        self._state = TrainState.new(self.network, self._settings)
        self._options = step_options(self._settings, subject.where, seed=0, images=dataset.train.num_images,
                                     num_classes=dataset.info.num_classes)  # fmt: skip
        self._done = 0

    def seconds(self, steps: int) -> float:
        """Seconds of the next `steps` steps; of several processes, those of all of them together."""
        sync_batchnorm = self._settings.sync_batchnorm
        with collectives.averaging(self.network, sync_batchnorm=sync_batchnorm) as network:
            collectives.sums([0.0])
            self.subject.sync()
            started = self.subject.now()
            self._train(network, steps)
            self.subject.sync()
            collectives.sums([0.0])
            return self.subject.now() - started

    def _train(self, network: nn.Module, steps: int) -> None:
        batches = stream(
            self.subject.dataset.train, self.batch, seed=0, start=self._done, count=steps,
            augment=self.subject.recipe.input.augment,
        )  # fmt: skip
        train_steps(
            network, batches, optimizer=self._state.optimizer, schedule=Schedule(0.01, _LONG),
            first_step=self._done, options=self._options,
        )  # fmt: skip
        self._done += steps


@dataclass(frozen=True)
class Round:
    """Seconds of a round by part; `images` are those that trained weights."""

    coarse: bool
    images: int
    flops: int
    seconds: dict[str, float]
    plain_seconds: float = field(default=0.0)

    @property
    def steps(self) -> float:
        """Seconds in training steps."""
        return self.seconds.get(STEPS, 0.0)

    @property
    def judging(self) -> float:
        """Seconds in which sub-networks are judged, as the recipe asks for."""
        return self.seconds.get(JUDGING, 0.0)

    @property
    def total(self) -> float:
        """All seconds."""
        return sum(self.seconds.values())

    @property
    def outside(self) -> float:
        """Seconds neither in training steps nor in judging."""
        return self.total - self.steps - self.judging


class Searching:
    """A real search in a folder, round by round, under a stopwatch."""

    def __init__(self, subject: Subject, directory: Path) -> None:
        recipe, self._subject = subject.recipe, subject
        proposer = Proposer(subject.channels, recipe, resolve_budgets(subject.channels, recipe))
        self.state = State.new(subject.network(), subject.channels, proposer, recipe)
        self._context = RoundContext.of(
            recipe,
            subject.dataset,
            subject.where,
            trains_gates=proposer.importance.trains_gates,
            scaler=self.state.scaler,
        )
        self._rounds = Rounds(self.state, proposer, self._context, directory=directory, progress=Silent())
        self._watch = Stopwatch(subject.sync, subject.now)

    def round(self, plain_seconds: float = 0.0) -> Round:
        """The next round; beside it, the seconds that as much plain training took."""
        with watched(self._watch):
            self._watch.restart()
            record: dict[str, Any] = self._rounds.next()
            seconds = self._watch.read()
        recipe = self._subject.recipe
        batch = min(recipe.train.batch_size, self._subject.dataset.train.num_images)
        coarse = record["phase"] == "coarse"
        return Round(coarse, self._context.steps * batch, record["flops"], seconds, plain_seconds)
