"""The width search: plans cut from given weights, judged without training, teach the policy.

A trained network says what a plan is worth: cut and mended in closed form, it loses less at plans that train
better. So before the first round a few generations of candidates are judged on common
images, the policy learns from each generation, and the best of what it found is what the rounds start with.

Every candidate is a line of `candidates.jsonl`. Draws are a pure function of the seed and of the rewards
before, so whoever continues an interrupted search replays that file and judges only what is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from jstc.core import numbers
from jstc.core.progress import Progress
from jstc.core.seeds import derive
from jstc.errors import StageError
from jstc.jst.importance import Norms
from jstc.jst.proposer import Proposal, Proposer
from jstc.jst.round import RoundContext, training_images
from jstc.jst.state import State, read_plan
from jstc.jst.threshnet import ThreshNet
from jstc.plan import Plan
from jstc.train import collectives
from jstc.train.device import to_device
from jstc.train.loop import Figures, evaluate
from jstc.train.metrics import History
from jstc.train.recalibration import recalibrate

__all__ = ["Judged", "WidthSearch"]

_GENERATION = 8
_COARSE = 0.4
"""Share of the generations that are coarse."""
_FIRST_PART = 4
"""A candidate is judged on one of so many parts of the images first."""
_FINALISTS = 4
_MENDING = 128
"""Training images that a candidate is mended on: few, but they order plans as many do."""
_MEMORY = 1_000_000_000
"""Bytes that the images in memory may take."""
_AS_GOOD = 0.005
"""Of plans whose losses differ by less than this share, the one with fewest parameters is taken."""


@dataclass(frozen=True)
class Judged:
    """Result of judging a plan; `loss` is None where the first part of the images ended it."""

    loss: float | None
    accuracy: float | None
    first: float
    images: int


@dataclass
class WidthSearch:
    """The width search of one budget, by its number; `run` makes it, `to_dict` says what came of it."""

    state: State
    proposer: Proposer
    context: RoundContext
    budget: int
    history: History
    identity: str
    judge: Judge
    contributions: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    judged: int = 0

    def run(self, progress: Progress, *, at_rest: Callable[[], None]) -> None:
        """All generations; then the policy stands at the best of what was found. `at_rest` may stop."""
        self.proposer.begin(self.state.target, self.budget)
        policy = self.proposer.thresholds.policy(self.budget)
        assert policy is not None
        total = self.context.recipe.search.candidates
        recorded = collectives.decided(self._recorded)
        progress.start("search", total, "candidate width")
        best: list[tuple[float, Proposal]] = []
        self._add("evenly narrow, by norms", self._even(Norms().scores(self.state.target)))
        self._add("channel weights", self._even(self.proposer.importance.scores(self.state.target)))
        self._add("starting profile", self.proposer.of(self.state.target, self.budget, None).plan)
        done, generation, was_coarse = 0, 0, False
        generations = max(1, math.ceil(total / _GENERATION))
        while done < total:
            t = generation / max(1, generations - 1)
            coarse = self.context.recipe.search.coarse_to_fine and t < _COARSE
            if was_coarse and not coarse:
                self._add("policy, coarse", self._likeliest().plan)
            was_coarse = coarse
            proposals, sigma = self._draw(
                policy, generation, min(_GENERATION, total - done), t, coarse=coarse
            )
            judged: list[float] = []
            bound = self._bound()
            for proposal in proposals:
                about = {"generation": generation, "phase": "coarse" if coarse else "fine", "sigma": sigma}
                loss = self._one(proposal, done, about, recorded, bound)
                judged.append(math.inf if loss is None else loss)
                if loss is not None:
                    best.append((loss, proposal))
                done += 1
                progress.update(done, loss=min((each for each, _ in best), default=math.inf))
                at_rest()
            self._teach(policy, proposals, judged)
            generation += 1
        self._add("policy, fine", self._likeliest().plan)
        self._settle(policy, best)

    # One candidate

    def _one(
        self,
        proposal: Proposal,
        number: int,
        about: dict[str, Any],
        recorded: list[dict[str, Any]],
        bound: float,
    ) -> float | None:
        counts = [len(kept) for kept in proposal.plan.kept.values()]
        known = recorded[number] if number < len(recorded) else {}
        if known.get("counts") == counts and known.get("plan") == proposal.plan.hash:
            found = Judged(known["loss"], known["accuracy"], known["first"], known["images"])
            self.judge.remember(proposal.plan, found)
            self.seconds += known["seconds"]
        else:
            del recorded[number:]
            since = time.perf_counter()
            found = self.judge(proposal.plan, bound=bound)
            spent = time.perf_counter() - since
            self.seconds += spent
            cost = self.state.target.channels.cost(proposal.plan)
            line = {
                "candidate": number,
                "of": self.identity,
                "budget": self.context.recipe.labels[self.budget],
                **about,
                "counts": counts,
                "plan": proposal.plan.hash,
                "flops": cost.flops,
                "params": cost.params,
                "loss": found.loss,
                "accuracy": found.accuracy,
                "first": found.first,
                "images": found.images,
                "seconds": round(spent, 4),
            }
            collectives.decided(lambda: self._write(number, line))
        self.judged += 1
        return found.loss

    def _write(self, number: int, line: dict[str, Any]) -> None:
        if number < len(self.history.read()):
            self.history.truncate(number)
        self.history.append(line)

    def _recorded(self) -> list[dict[str, Any]]:
        found = self.history.read()
        return found if all(line.get("of") == self.identity for line in found) else []

    def _bound(self) -> float:
        """Loss on the first part of the images above which a candidate is hopeless: a median."""
        known = self.judge.firsts[-2 * _GENERATION :]
        return float(np.median(known)) if len(known) >= _GENERATION else math.inf

    # A generation

    def _draw(
        self, policy: ThreshNet, generation: int, number: int, t: float, *, coarse: bool
    ) -> tuple[list[Proposal], float]:
        search = self.context.recipe.search
        first, last = search.sigma
        sigma = first ** (1 - t) * last**t if first and last else first + t * (last - first)
        own: list[Proposal] = []

        def drawn() -> list[Any]:
            random = np.random.default_rng(
                derive(self.context.recipe.seed, "widths", self.budget, generation)
            )
            if search.perturbation:
                choices = policy.draw(number, random, sigma=sigma, coarse=coarse)
            else:
                choices = policy.one_by_one(number, generation * _GENERATION, sigma=sigma)
            own[:] = [self.proposer.of(self.state.target, self.budget, choice) for choice in choices]
            return [[proposal.plan.to_dict(), proposal.thresholds] for proposal in own]

        plans = collectives.decided(drawn)
        if own:
            return own, sigma
        phase = self.proposer.growth.end()
        groups = self.state.target.channels.widths
        return [Proposal(read_plan(plan, groups), phase, values, None) for plan, values in plans], sigma

    @staticmethod
    def _teach(policy: ThreshNet, proposals: Sequence[Proposal], losses: Sequence[float]) -> None:
        finite = [(p.choice, -loss) for p, loss in zip(proposals, losses, strict=True) if math.isfinite(loss)]
        worst = min((reward for _, reward in finite), default=0.0)
        choices = [p.choice for p in proposals if p.choice is not None]
        if len(choices) == len(proposals) and finite:  # of several processes, the first has the policy
            policy.learn(choices, [-loss if math.isfinite(loss) else worst - 1 for loss in losses])

    # What the parts contribute, and what comes of it

    def _likeliest(self) -> Proposal:
        return self._shared(lambda: self.proposer.of(self.state.target, self.budget, None))

    def _shared(self, make: Callable[[], Proposal]) -> Proposal:
        own: list[Proposal] = []

        def made() -> Any:
            own.append(make())
            return own[0].plan.to_dict()

        plan = collectives.decided(made)
        if own:
            return own[0]
        found = read_plan(plan, self.state.target.channels.widths)
        return Proposal(found, self.proposer.growth.end(), [], None)

    def _even(self, scores: Sequence[np.ndarray[Any, np.dtype[np.float64]]]) -> Plan:
        space = self.proposer.spaces[self.budget]
        order = [np.argsort(-own, kind="stable") for own in scores]
        return space.plan(order, [np.log((np.arange(len(own)) + 0.5) / len(own)) for own in scores])

    def _add(self, part: str, plan: Plan) -> None:
        found = self.judge(plan)
        cost = self.state.target.channels.cost(plan)
        self.contributions.append(
            {"part": part, "loss": found.loss, "accuracy": found.accuracy, "params": cost.params}
        )

    def _settle(self, policy: ThreshNet, best: list[tuple[float, Proposal]]) -> None:
        """Judge the best ones and the policy's own once more, on all images, and stand at the winner."""
        ranked = [proposal for _, proposal in sorted(best, key=lambda each: each[0])]
        finalists = {p.plan.hash: p for p in [self._likeliest(), *ranked[:_FINALISTS]]}
        losses = {name: self.judge.thoroughly(p.plan) for name, p in finalists.items()}
        least = min(losses.values())
        as_good = [p for name, p in finalists.items() if losses[name] <= (1 + _AS_GOOD) * least]
        channels = self.state.target.channels
        winner = min(as_good, key=lambda p: (channels.cost(p.plan).params, losses[p.plan.hash]))
        self._add("best of the candidates", winner.plan)
        if winner.choice is not None:
            policy.settle(winner.choice)

    def to_dict(self) -> dict[str, Any]:
        """JSON document: how many were judged and how long it took, and what each part contributed."""
        return {
            "candidates": {
                "judged": self.judged,
                "images": self.judge.images,
                "seconds": round(self.seconds, 3),
            },
            "contributions": self.contributions,
        }

    @property
    def sentence(self) -> str:
        """Sentence for people."""
        even, best = self.contributions[0], self.contributions[-1]
        return (
            f"widths: {self.judged} plans were judged in {numbers.duration(self.seconds)} on "
            f"{self.judge.images:,} images, without training; the best loses {best['loss']:.3g} "
            f"({numbers.percent(best['accuracy'])} right), the evenly narrow one {even['loss']:.3g} "
            f"({numbers.percent(even['accuracy'])})"
        )


class Judge:
    """Judges plans at the weights as they are: cut, mended or recalibrated, loss on common images.

    Mended by `ChannelMap.reconstruct` on a few images, unless `search.reconstruction_images` is 0: so judged,
    plans are in the order of what they train to; with no more than new batch-norm statistics they hardly are
    (docs/research/accuracy.md). The images are read once and stay in memory. A plan that was judged is not
    judged again.
    """

    def __init__(self, state: State, context: RoundContext) -> None:
        self._state, self._context = state, context
        recipe = context.recipe
        split = context.dataset.search_val
        if not split.num_images:
            raise StageError("the search-validation split is empty; raise input.val_fraction")
        each = 4 * math.prod(context.dataset.info.input_shape)
        number = min(recipe.search.candidate_images, split.num_images, max(64, _MEMORY // each))
        batch = max(1, min(recipe.train.batch_size, -(-number // _FIRST_PART)))
        self._batches = list(split.ordered(batch, limit=number, part=collectives.part()))
        mends = recipe.search.reconstruction_images
        self._fits = min(_MENDING, mends) if mends else 0
        self._training = list(training_images(context, self._fits or max(2, number // 2)))
        self.images = number
        self._known: dict[str, Judged] = {}

    @property
    def firsts(self) -> list[float]:
        """Losses on the first part of the images, of all plans so far."""
        return [found.first for found in self._known.values()]

    def remember(self, plan: Plan, found: Judged) -> None:
        """Take over what was found earlier."""
        self._known[plan.hash] = found

    def __call__(self, plan: Plan, *, bound: float = math.inf) -> Judged:
        """Judge a plan; one that is worse than `bound` on the first part of the images is left there."""
        known = self._known.get(plan.hash)
        if known is not None and (known.loss is not None or math.isfinite(bound)):
            return known
        network, numerics = self._cut(plan), self._context.options.criterion.numerics
        self._mend(network, plan, self._training, self._fits)
        cut = max(1, -(-len(self._batches) // _FIRST_PART))
        first = evaluate(network, self._batches[:cut], numerics)
        found = Judged(None, None, first.loss, first.images)
        if not first.loss > bound:
            rest = evaluate(network, self._batches[cut:], numerics) if len(self._batches) > cut else None
            whole = first if rest is None else _together(first, rest)
            found = Judged(whole.loss, whole.accuracy, first.loss, whole.images)
        self._known[plan.hash] = found
        return found

    def thoroughly(self, plan: Plan) -> float:
        """Loss on all of the search-validation split, mended or recalibrated as after the search."""
        network, numerics = self._cut(plan), self._context.options.criterion.numerics
        search = self._context.recipe.search
        images = search.reconstruction_images or search.recalibration_images
        self._mend(network, plan, training_images(self._context, images), search.reconstruction_images)
        batch = self._context.recipe.train.batch_size
        split = self._context.dataset.search_val.ordered(batch, part=collectives.part())
        return evaluate(network, split, numerics).loss

    def _cut(self, plan: Plan) -> nn.Module:
        target, settings = self._state.target, self._context.recipe.train
        return to_device(target.channels.slice(target.network, plan), settings, target.alpha.device)

    def _mend(self, network: nn.Module, plan: Plan, batches: Iterable[Any], fits: int) -> None:
        """Fit the layers on `fits` of the images in `batches`; with 0, take statistics of all of them."""
        target = self._state.target
        if fits:
            target.channels.reconstruct(target.network, network, plan, batches, images=fits)
        else:
            numerics = self._context.options.criterion.numerics
            recalibrate(network, batches, images=2**31, numerics=numerics)
        collectives.synchronise(network)


def _together(first: Figures, rest: Figures) -> Figures:
    images = first.images + rest.images
    share = first.images / images
    return Figures(
        share * first.accuracy + (1 - share) * rest.accuracy,
        share * first.loss + (1 - share) * rest.loss,
        images,
    )
