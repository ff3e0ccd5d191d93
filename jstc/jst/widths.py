"""The width search: plans cut from given weights, judged without training, teach the policy.

A trained network says what a plan is worth: cut and mended in closed form, it loses less at plans that train
better. So before the first round a few generations of candidates are judged on common
images, the policy learns from each generation, and the best of what it found is what the rounds start with.

Every candidate is a line of `candidates.jsonl`. Draws are a pure function of the seed and of the rewards
before, so whoever continues an interrupted search replays that file and judges only what is missing.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jstc.core import numbers
from jstc.core.progress import Progress
from jstc.core.seeds import derive
from jstc.jst.importance import Norms
from jstc.jst.plan_judge import Judged, PlanJudge
from jstc.jst.proposer import Proposal, Proposer
from jstc.jst.state import State, read_plan
from jstc.jst.threshnet import Choice, ThreshNet
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import collectives
from jstc.train.metrics import History

__all__ = ["find"]

_GENERATION = 8
_COARSE = 0.4
"""Share of the generations that are coarse."""
_FINALISTS = 5
_AS_GOOD = 0.005
"""Of plans whose losses differ by less than this share, the one with fewest parameters is taken."""


def find(  # noqa: PLR0913 - all of one search
    state: State,
    proposer: Proposer,
    recipe: Recipe,
    judge: PlanJudge,
    identity: str,
    *,
    history: History,
    progress: Progress,
    budget: int = 0,
    at_rest: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Search the widths of a budget, by its number; then its policy stands at the best that was found.

    `identity` says what decides the search beside its draws: settings, weights, images. `history` is its log,
    from which the same search goes on. `at_rest` is called between two candidates, and may stop. Returns, for
    the result, how many were judged and how long it took, and what each part contributed.
    """
    of = hashlib.sha256(identity.encode()).hexdigest()[:12]
    search = _WidthSearch(state, proposer, recipe, budget, history, of, judge)
    search.run(progress, at_rest=at_rest)
    progress.message(search.sentence)
    return search.to_dict()


@dataclass
class _WidthSearch:
    """The width search of one budget, by its number; `run` makes it, `to_dict` says what came of it."""

    state: State
    proposer: Proposer
    recipe: Recipe
    budget: int
    history: History
    identity: str
    judge: PlanJudge
    contributions: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    judged: int = 0
    _found: list[tuple[float, Proposal]] = field(default_factory=list)
    _recorded: list[dict[str, Any]] = field(default_factory=list)
    _firsts: list[float] = field(default_factory=list)  # on the first part of the images, of this budget

    def run(self, progress: Progress, *, at_rest: Callable[[], None]) -> None:
        """All generations; then the policy stands at the best of what was found. `at_rest` may stop."""
        self.proposer.begin(self.state.target, self.budget)
        policy = self.proposer.thresholds.policy(self.budget)
        assert policy is not None
        search, self._recorded = self.recipe.search, collectives.decided(self._read)
        total = search.candidates
        progress.start("search", total, "candidate width")
        self._add("evenly narrow, by norms", self._even())
        evenly = self._stand("channel weights", policy.even)
        if evenly < self._stand("starting profile", policy.likeliest):
            policy.settle(policy.even)  # as with ResNet-20's public weights
        generations = -(-total // _GENERATION)
        coarse_ones = round(_COARSE * generations) if search.coarse_to_fine else 0
        for generation in range(generations):
            if generation == coarse_ones > 0:
                self._stand("policy, coarse", policy.likeliest)
            number = min(_GENERATION, total - self.judged)
            sigma = self._sigma(generation / max(1, generations - 1))
            coarse = generation < coarse_ones
            proposals = self._draw(policy, generation, number, sigma, coarse=coarse)
            about = {"generation": generation, "phase": "coarse" if coarse else "fine", "sigma": sigma}
            bound, losses = self._bound(), []
            for proposal in proposals:
                losses.append(self._one(proposal, about, bound))
                progress.update(self.judged, loss=min(loss for loss, _ in self._found))
                at_rest()
            self._teach(policy, proposals, losses)
        self._stand("policy, fine", policy.likeliest)
        self._settle(policy)

    # One candidate

    def _one(self, proposal: Proposal, about: dict[str, Any], bound: float) -> float:
        """Loss of the next candidate, read or judged; infinite where it was ended early."""
        number, plan = self.judged, proposal.plan
        known = self._recorded[number] if number < len(self._recorded) else {}
        if known.get("plan") == plan.hash:
            found = Judged(known["loss"], known["accuracy"], known["first"], known["images"])
            self.judge.remember(plan, found)
            spent = known["seconds"]
        else:
            stale = number < len(self._recorded)
            del self._recorded[number:]
            since = time.perf_counter()
            found = self.judge(plan, bound=bound)
            spent = round(time.perf_counter() - since, 4)
            cost = self.state.target.channels.cost(plan)
            line = {
                "candidate": number,
                "of": self.identity,
                "budget": self.recipe.labels[self.budget],
                **about,
                "counts": list(plan.counts.values()),
                "plan": plan.hash,
                "flops": cost.flops,
                "params": cost.params,
                **asdict(found),
                "seconds": spent,
            }
            collectives.decided(lambda: self._write(line, stale=stale))
        self.seconds += spent
        self.judged += 1
        self._firsts.append(found.first)
        if found.loss is None:
            return math.inf
        self._found.append((found.loss, proposal))
        return found.loss

    def _write(self, line: dict[str, Any], *, stale: bool) -> None:
        if stale:  # what comes after it was drawn after another reward
            self.history.truncate(line["candidate"])
        self.history.append(line)

    def _read(self) -> list[dict[str, Any]]:
        """Lines of this search; those of another one are dropped."""
        found = self.history.read()
        if all(line.get("of") == self.identity for line in found):
            return found
        self.history.truncate(0)
        return []

    def _bound(self) -> float:
        """Loss on the first part of the images above which a candidate is hopeless: a median."""
        known = self._firsts[-2 * _GENERATION :]
        return float(np.median(known)) if len(known) >= _GENERATION else math.inf

    # A generation

    def _sigma(self, t: float) -> float:
        """Scale of the perturbation, geometrically from the first to the last as `t` goes from 0 to 1."""
        first, last = self.recipe.search.sigma
        return float(first ** (1 - t) * last**t) if first and last else first + t * (last - first)

    def _draw(
        self, policy: ThreshNet, generation: int, number: int, sigma: float, *, coarse: bool
    ) -> list[Proposal]:
        seed, perturbed = self.recipe.seed, self.recipe.search.perturbation
        own: list[Proposal] = []

        def drawn() -> list[Any]:
            random = np.random.default_rng(derive(seed, "widths", self.budget, generation))
            if perturbed:
                choices = policy.draw(number, random, sigma=sigma, coarse=coarse)
            else:
                choices = policy.one_by_one(number, generation * _GENERATION, sigma=sigma)
            own[:] = [self.proposer.of(self.state.target, self.budget, choice) for choice in choices]
            return [proposal.plan.to_dict() for proposal in own]

        plans = collectives.decided(drawn)
        return own or [self._foreign(plan) for plan in plans]

    def _foreign(self, plan: Any) -> Proposal:
        """Another process's proposal: the policy and its choices are those of the first one."""
        found = read_plan(plan, self.state.target.channels.widths)
        return Proposal(found, self.proposer.growth.end(), [], None)

    @staticmethod
    def _teach(policy: ThreshNet, proposals: Sequence[Proposal], losses: Sequence[float]) -> None:
        """Let the policy learn, in the first of several processes; those ended early were the worst."""
        finite = [loss for loss in losses if math.isfinite(loss)]
        choices = [proposal.choice for proposal in proposals if proposal.choice is not None]
        if choices and finite:
            worst = max(finite) + 1
            policy.learn(choices, [-loss if math.isfinite(loss) else -worst for loss in losses])

    # What the parts contribute, and what comes of it

    def _even(self) -> Plan:
        """The evenly narrow plan, channels by norms: what there is without a search."""
        space = self.proposer.spaces[self.budget]
        scores = Norms().scores(self.state.target)
        order = [np.argsort(-own, kind="stable") for own in scores]
        return space.plan(order, [np.log((np.arange(len(own)) + 0.5) / len(own)) for own in scores])

    def _stand(self, part: str, choice: Choice) -> float:
        """Judge where the policy stands once a part has done its work; returns the loss."""
        own: list[Proposal] = []

        def made() -> Any:
            own.append(self.proposer.of(self.state.target, self.budget, choice))
            return own[0].plan.to_dict()

        plan = collectives.decided(made)
        proposal = own[0] if own else self._foreign(plan)
        loss = self._add(part, proposal.plan)
        self._found.append((loss, proposal))
        return loss

    def _add(self, part: str, plan: Plan) -> float:
        found = self.judge(plan)
        assert found.loss is not None
        params = self.state.target.channels.cost(plan).params
        line = {"part": part, "loss": found.loss, "accuracy": found.accuracy, "params": params}
        self.contributions.append(line)
        return found.loss

    def _settle(self, policy: ThreshNet) -> None:
        """Judge the best ones once more, on all images, and stand at the winner."""
        ranked = [proposal for _, proposal in sorted(self._found, key=lambda each: each[0])]
        finalists = list({p.plan.hash: p for p in ranked}.values())[:_FINALISTS]
        losses = {p.plan.hash: self.judge.thoroughly(p.plan) for p in finalists}
        least, channels = min(losses.values()), self.state.target.channels
        as_good = [p for p in finalists if losses[p.plan.hash] <= (1 + _AS_GOOD) * least]
        winner = min(as_good, key=lambda p: (channels.cost(p.plan).params, losses[p.plan.hash]))
        self._add("best of all", winner.plan)
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
        first, last = (self.contributions[n] for n in (0, -1))
        even, best = _told(first), _told(last)
        hint = "; more candidates may find a better one" if last["loss"] >= first["loss"] else ""
        judged = f"{self.judged} plan{' was' if self.judged == 1 else 's were'}"
        labels = self.recipe.labels
        of = f" of {labels[self.budget]}" if len(labels) > 1 else ""
        return (
            f"widths{of}: {judged} judged in {numbers.duration(self.seconds)} on "
            f"{self.judge.images:,} images, without training; the one taken loses {best}, "
            f"the evenly narrow one {even}{hint}"
        )


def _told(found: Mapping[str, Any]) -> str:
    right = "" if found["accuracy"] is None else f" ({numbers.percent(found['accuracy'])} right)"
    return f"{found['loss']:.3g}{right} with {numbers.count(found['params'])} parameters"
