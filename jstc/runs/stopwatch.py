"""The time of a run: what each stage has taken, for the record, and what is left of the whole, for the user.

How long a whole run takes is known once a step of it was timed: other trainings cost images times FLOPs, as
this one, and so do the passes over test images; a bench lasts as long as the recipe says. Before a step was
timed in this process nothing is said.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jstc.core.progress import LEFT_IN_ALL, Progress
from jstc.runs.directory import RunDirectory
from jstc.runs.workspace import Workspace

if TYPE_CHECKING:
    from jstc.data import Dataset
    from jstc.recipe.schema import Recipe

__all__ = ["Stopwatch", "Work", "expected_work"]

_SAVE_EVERY = 10.0  # seconds of work that an interruption may cost the record

_BACKWARD = 2.0  # the backward pass in forward passes: gradients of inputs and of weights
_TRAINING_UNITS = ("round", "epoch")
_BEFORE_ROUNDS = "candidate width"  # judged before the training of a search, whose work they are no part of


@dataclass(frozen=True)
class Work:
    """What a stage is going to do: FLOPs of forward passes, and `seconds` that it takes on any machine.

    `network` are the FLOPs of the network that is trained, for an image.
    """

    flops: float = 0.0
    seconds: float = 0.0
    network: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.seconds + other.seconds)


def expected_work(workspace: Workspace) -> dict[str, Work]:
    """The work of every stage, and under the label of each of several budgets that of its own stages.

    Nothing where data and network are not there yet: they are loaded for the training, not for this.
    """
    recipe, made = workspace.recipe, workspace.__dict__.keys()
    if not {"dataset", "channels"} <= made or (recipe.latency is not None and "latency" not in made):
        return {}
    dataset = workspace.dataset
    whole = workspace.channels.cost().flops
    shares = {label: budget.share for label, budget in workspace.budgets.items()}
    each = {label: _of_one(recipe, dataset, share * whole, whole) for label, share in shares.items()}
    mean = sum(shares.values()) / len(shares)
    found = _shared(recipe, dataset, mean * whole, whole)
    if len(each) == 1:
        return found | next(iter(each.values()))
    return found | {label: sum(stages.values(), Work()) for label, stages in each.items()}


def _shared(recipe: Recipe, dataset: Dataset, flops: float, whole: float) -> dict[str, Work]:
    from jstc.train import schedule as schedules

    batch, test = recipe.train.batch_size, dataset.test.num_images
    alone = schedules.baseline_epochs(recipe, dataset) * schedules.steps_per_finetune_epoch(recipe, dataset)
    searched = recipe.search.rounds * schedules.steps_per_round(recipe, dataset)
    return {
        "given": Work(test * whole),
        "baseline": Work(_trained(alone * batch, whole) + test * whole),
        "search": Work(_trained(searched * batch, flops), network=flops),
    }


def _of_one(recipe: Recipe, dataset: Dataset, flops: float, whole: float) -> dict[str, Work]:
    """The stages of one budget, whose network has `flops`; the target network has `whole`."""
    from jstc.train import schedule as schedules

    steps = recipe.finetune.epochs * schedules.steps_per_finetune_epoch(recipe, dataset)
    images, test = steps * recipe.train.batch_size, dataset.test.num_images
    taught = images * whole if recipe.finetune.teacher == "target" else 0.0
    bench = recipe.bench
    timed = bench.seconds * len(bench.batch_sizes) * len(bench.providers)
    return {
        "finetune": Work(_trained(images, flops) + taught + test * flops),
        "slim": Work(test * flops),
        "export": Work(len(recipe.export.precisions) * test * flops),
        "bench": Work(seconds=timed),
    }


def _trained(images: float, flops: float) -> float:
    return (1 + _BACKWARD) * images * flops


class Stopwatch:
    """A `Progress` that passes everything on, and puts the time of a stage on the run's record.

    With `to_come`, the stages after this one, it adds to every step how long all of them take.
    """

    def __init__(
        self,
        run: RunDirectory,
        stage: str,
        progress: Progress,
        *,
        workspace: Workspace | None = None,
        to_come: Sequence[str] = (),
    ) -> None:
        self._run, self._stage, self._progress = run, stage, progress
        self._workspace, self._to_come = workspace, to_come
        self._pace: dict[str, float] = {} if workspace is None else workspace.pace
        self._work: dict[str, Work] = {}
        self._since = time.monotonic()
        self._total, self._unit, self._has_trained = 0, "", False
        self._first: int | None = None
        self._last, self._began, self._flops = 0, self._since, 0.0

    def start(self, stage: str, total: int, unit: str) -> None:
        self._has_trained = self._has_trained or self._unit in _TRAINING_UNITS
        self._total, self._unit, self._first = total, unit, None
        self._progress.start(stage, total, unit)

    def update(self, done: int, **figures: float) -> None:
        # Now and then, so that even a process that is killed leaves most of its time on record.
        if time.monotonic() - self._since > _SAVE_EVERY:
            self.save()
        left = self._left_in_all(done, figures)
        known = {} if left is None else {LEFT_IN_ALL: left}
        self._progress.update(done, **(figures | known))

    def message(self, text: str) -> None:
        self._progress.message(text)

    def finish(self) -> None:
        self._progress.finish()

    def save(self) -> None:
        """Record the time since the last save."""
        now = time.monotonic()
        self._since, elapsed = now, now - self._since
        self._run.spend(self._stage, elapsed)

    # What is left.

    def _left_in_all(self, done: int, figures: Mapping[str, float]) -> float | None:
        """Seconds to the end of the last stage to come, or None while that is not known."""
        own = figures.get(LEFT_IN_ALL)  # of a run within this one
        if self._workspace is None or (not self._to_come and own is None):
            return own
        work = self._work = self._work or expected_work(self._workspace)
        if not work:
            return None
        if own is None:
            own = self._left_in_stage(done, figures, work.get(self._stage, Work()))
        pace = self._pace.get("seconds_per_flop")
        if own is None or pace is None:
            return None
        rest = sum((work.get(name, Work()) for name in self._to_come), Work())
        return own + rest.flops * pace + rest.seconds

    def _left_in_stage(self, done: int, figures: Mapping[str, float], work: Work) -> float | None:
        now = time.monotonic()
        each = work.flops / max(1, self._total)
        if self._first is None:  # where it goes on from: the first step to be timed is the next one
            self._first = self._last = done
            self._began, self._flops = now, 0.0
            pace = self._pace.get("seconds_per_flop")
            # A pass over images after the training is a small part of the stage's work.
            small = self._has_trained and self._unit not in _TRAINING_UNITS
            return None if pace is None or small else pace * each * (self._total - done)
        steps, elapsed = done - self._first, now - self._began
        if steps < 1:
            return None
        if self._unit not in _TRAINING_UNITS:
            own = elapsed / steps * (self._total - done)
            if self._unit != _BEFORE_ROUNDS:
                return own
            pace = self._pace.get("seconds_per_flop")
            return None if pace is None else own + pace * work.flops
        # A round of a search may be of a smaller network than the budget's; it says so.
        whole = each * figures.get("flops", work.network) / work.network if work.network else each
        self._flops, self._last = self._flops + whole * (done - self._last), done
        if not self._flops:
            return None
        self._pace["seconds_per_flop"] = pace = elapsed / self._flops
        return pace * each * (self._total - done)
