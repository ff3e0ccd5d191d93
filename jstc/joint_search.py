"""`JointSearch`: the search over any network, in any training loop. It asks for nothing but a score.

It owns neither data, nor loss, nor loop: `ask` hands out small networks, whoever trained one tells it back.
Turns, plans, channel weights and the policy are those of `jstc search` (`jstc.jst`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jstc.channels import Slim, analyse
from jstc.channels.trace.ids import named_tensors
from jstc.channels.trace.memory import duplicate
from jstc.core.progress import Progress
from jstc.errors import InputError
from jstc.jst import turns, widths
from jstc.jst.carried import Carried
from jstc.jst.handed_out import Phase, Round, checked, plain, put, score_of
from jstc.jst.proposer import Proposer
from jstc.jst.space import resolve_budgets
from jstc.jst.state import Entry, State
from jstc.jst.subnetwork import SubNetwork, cut
from jstc.jst.turns import Finals, Turn, Turns
from jstc.jst.user_task import NOTHING, Call, Loss, UserTask, copied, recalibrate, run
from jstc.plan import Plan
from jstc.runs.latency_budget import LatencyBudgets, of_any
from jstc.runs.search_folder import LATENCY, SearchFolder, identity_of, recipe_of
from jstc.runs.search_result import shown
from jstc.train import checkpoint, collectives, process_group, seeds

__all__ = ["JointSearch", "Round", "recalibrate"]

Bound = float | str


class JointSearch:
    """A search of a smaller network, of any task, by a training loop that is yours.

        search = jstc.JointSearch(model, example, flops=0.5, rounds=20, out="runs/detector")
        while not search.done:
            round = search.ask()                     # a small network of the model's class
            train(round.network)                     # your loop, a fraction of an epoch or more
            search.tell(round, score(round.network)) # your score, higher is better
        for round in search.finalists():
            jstc.recalibrate(round.network, loader)  # statistics of batch norms are yours, too
            search.tell(round, score(round.network))
        slim = search.finish()                       # slim.network, slim.plan, slim.cost, slim.score

    The same call again goes on from what is in `out`: a killed process loses its round. No plan is above the
    budget, and `ask` gives the same in all processes of a group.

    Arguments:
        model: Any nn.Module; it is left as it is, and its weights are where the search begins.
        example: What the network is called with: a tensor, a tuple, a dictionary of keywords, or (tuple,
            dictionary), with a batch of one. Costs are those of it.
        out: A folder of the search's own: its log, checkpoint and result.
        flops, params, latency: The budget: a share of the network's (0.5) or a count ("2G"); of latency a
            share or a time ("5ms"). Whatever is given is met together.
        rounds: Rounds at most; 0 with trained weights: the network is cut, mended and judged.
        trained: Whether the weights are trained.
        batches: Some training batches, a few hundred examples, in any form. With `trained` the cut networks
            are mended on them; with `loss` they also rank channels and judge plans, before any training.
        loss: A function of a network, in evaluation mode, and a batch that gives the loss.
        call: A function of a network and a batch that calls the one on the other; left out, a batch is a
            tensor, a tuple or list that begins with the input, or a dictionary of keywords.
        also: What only training uses: lambda network: network.loss(batch). Left out: `loss`.
        outputs: A function that picks what you need of what the forward returns.
        part: Name of the submodule that alone is cut, `example` being for it.
        ignore: Patterns of modules whose channels stay.
        settings: Keys of a recipe's sections search and channels: {"channels.round_to": 8}. Refused are those
            that do nothing here, as what is of training.
        seed: What is drawn, is drawn by it.
        key: A text of your own that tells this search from others, such as a name of your loop's settings.
        fresh: Begin anew, whatever is in `out`.
        progress: False for silence while plans are judged; or an object as in jstc.core.progress.

    Raises `InputError` (a `BudgetError`, `RecipeError` or `RunDirectoryError`), or `ChannelError`, before any
    training.
    """

    def __init__(  # noqa: PLR0913 - each with a default, and none that nobody asked for
        self,
        model: nn.Module,
        example: Any,
        *,
        out: str | Path,
        flops: Bound | None = None,
        params: Bound | None = None,
        latency: Bound | None = None,
        rounds: int = 20,
        trained: bool = False,
        batches: Iterable[Any] | None = None,
        loss: Loss | None = None,
        call: Call = run,
        also: Callable[[nn.Module], Any] | None = None,
        outputs: Callable[[Any], Any] | None = None,
        part: str | None = None,
        ignore: Sequence[str] = (),
        settings: Mapping[str, Any] | Sequence[str] = (),
        seed: int = 0,
        key: str = "",
        fresh: bool = False,
        progress: bool | Progress = True,
    ) -> None:
        self.path, self._progress = Path(out).expanduser().resolve(), progress
        self._task = UserTask.given(batches, call, loss, seed)
        given = {"flops": flops, "params": params, "latency": latency, "search.rounds": rounds, "seed": seed}
        has = {"trained": trained, "batches": self._task is not None, "judged": self._judges}
        self._recipe = recipe_of(settings, given, **has)
        if also is None and loss is not None and self._task is not None:
            first, own = copied(self._task.batches[0]), loss
            also = lambda network: own(network, first)  # noqa: E731
        if not any(True for _ in model.parameters()):
            raise InputError(f"a {type(model).__name__} has no parameters: there is nothing to cut")
        with seeds.apart(seed, "analysis"):
            self.channels = analyse(model, example, ignore=ignore, part=part, outputs=outputs, also=also)
            process_group.join_if_several(next(model.parameters()).device)
            self._latency = self._timed(model, example, fresh=fresh)
        budgets = resolve_budgets(self.channels, self._recipe)
        self._proposer = Proposer(self.channels, self._recipe, budgets, judged=trained)
        # The user's own is left as it is; hooks and gradients do not come along.
        self._state = State.new(duplicate(model), self.channels, self._proposer, self._recipe, own=False)
        self._turns = Turns(self._state, self._proposer, self._new_sub, self._loss())
        self._carried, self._finals, self._whole = Carried(), Finals(), True
        self._asked: tuple[Round, Turn | None] | None = None
        self._before: Any = None  # state of the policy, before it was asked
        self._identity = identity_of(model, self.channels, self._recipe, judged=self._judges, key=key)
        with collectives.together():
            self._folder = SearchFolder(self.path, self._identity, fresh=fresh)
        with self._work("begin"):
            found = self._resume()
            full, about = self.channels.cost(), {k: self._identity[k] for k in ("class", "budget", "widths")}
            self._folder.describe({**about, "flops": full.flops, "params": full.params})
            if self._latency is not None and collectives.is_first():
                self._latency.save(self.path / LATENCY)
            if not found:
                self._begin()
        if found and self.round:
            with shown(self._progress) as told:
                told.message(f"going on in {self.path} after {self.round} rounds")

    # Where the search is

    @property
    def round(self) -> int:
        """Rounds that were told."""
        return self._state.round

    @property
    def done(self) -> bool:
        """Whether all rounds are told, or plans have stopped changing: what is left are the finalists."""
        return self._state.round >= self._recipe.search.rounds or self._state.settled

    # Rounds

    def ask(self) -> Round:
        """The next round; the same again, cut anew, where the last one was not told.

        The first call judges plans, where the search was given trained weights, batches and a loss.
        Raises `InputError` when the search is done.
        """
        with self._work("ask", self.round):
            if self.done:
                raise InputError("the search is done: judge search.finalists(), then call search.finish()")
            self._drop()
            self._find_widths()
            since = time.perf_counter()
            if self._before is not None:  # asked for, and not told: nothing was learnt from it
                self._state.thresholds.restore(*self._before)
            self._before = self._state.thresholds.state()
            turn = self._turns.ask()
            round_ = self._hand_out(self.round, "coarse" if turn.proposal.phase.coarse else "fine", turn.sub)
        self._asked, self._since = (round_, turn), since
        return round_

    def _hand_out(self, number: int, phase: Phase, sub: SubNetwork) -> Round:
        state, settings = self._state, self._recipe.search
        watches = phase != "final" and self._proposer.importance.follows_training
        return Round.of(state.target, sub, number, phase, self._carried, settings, watches=watches)

    def tell(self, round: Round, score: float | None, *, network: nn.Module | None = None) -> None:
        """A round was trained, or a finalist judged: take its network over, or its score.

        `score` is your figure, higher is better; None for a round that you did not judge. `network` is what
        you trained in place of `round.network`: an average of its weights, or the same in a wrapper of
        DistributedDataParallel or torch.compile. Of several processes the first one's score counts.

        All or nothing: raises `InputError`, and changes nothing, for a round that is not the last one asked
        for, a network of another class, other shapes, or numbers, also a score, that are not finite. Where
        the checkpoint cannot be written it can be told again.
        """
        with self._work("tell", round.number):
            value, tensors = collectives.agreed(lambda: self._checked(round, score, network))
            [value] = collectives.decided(lambda: [value])
            assert self._asked is not None
            turn, policy = self._asked[1], self._state.thresholds.state()
            self._whole = False
            try:
                if turn is None:
                    assert value is not None
                    self._finals = self._finals.told(round.plan, value, tensors)
                    self._save()
                else:
                    self._tell_round(round, turn, value, tensors)
            except BaseException:
                self._resume()  # what is on disk is whole
                if (
                    turn is None or self.round == round.number
                ):  # and mostly from before: the round may be told again
                    self._state.thresholds.restore(*policy)
                else:
                    self._asked = self._before = None
                raise
            self._asked, self._before, self._whole = None, None, True

    def _checked(self, round_: Round, score: Any, network: nn.Module | None) -> tuple[Any, dict[str, Tensor]]:
        stale = round_.phase != "final" and self.round != round_.number
        if self._asked is None or round_ is not self._asked[0] or stale:
            advice = "tell each round once, and before the next one is asked for"
            raise InputError(f"round {round_.number} is not the one that was asked for last", advice)
        value = score_of(score, final=round_.phase == "final") if collectives.is_first() else None
        return value, checked(
            plain(round_.network if network is None else network), round_, self._state.target.network
        )

    def _tell_round(
        self, round_: Round, turn: Turn, score: float | None, tensors: Mapping[str, Tensor]
    ) -> None:
        sub = cut(self._state.target, round_.plan, None)
        put(tensors, sub.gated.network)
        with torch.no_grad():
            sub.gated.alpha.copy_(turn.sub.gated.alpha)
        sub.moments, sub.steps = turn.sub.moments, turn.sub.steps
        if round_._slopes is not None:
            sub.slopes.copy_(round_._slopes.stop())
        collectives.synchronise(sub.gated.network)
        turn.sub = sub
        if round_._saved is not None:
            self._carried.save(round_._saved, dict(round_.network.named_parameters()), round_._places)
        told = self._turns.tell(turn, score, images=0, seconds=lambda: time.perf_counter() - self._since)
        line = round_.line(turn.proposal, score) | {"overlap": told.overlap, "advantage": told.advantage}
        self._save(line | {"seconds": round(self._state.last_seconds, 3)})

    # The end

    def finalists(self) -> Iterator[Round]:
        """The best plans, each at the weights as they are now, to be judged and told; then call `finish`.

        Statistics of batch norms are slices of the whole network's: estimate them anew (`jstc.recalibrate`).
        Those that were told before are left out.
        Raises `InputError` when rounds are left.
        """
        with self._work("finalists"):
            entries = self._entries()
        for number, entry in enumerate(entries, self.round):
            if entry.plan.hash in self._finals.scores:
                continue
            with self._work("finalist", entry.plan.hash):
                self._drop()
                round_ = self._hand_out(number, "final", self._new_sub(entry.plan))
            self._asked = round_, None
            yield round_

    def _entries(self) -> list[Entry]:
        if not self.done:
            raise InputError(f"{self._recipe.search.rounds - self.round} rounds are left: search.ask()")
        self._find_widths()
        return turns.finalists(self._state, self._proposer)

    def finish(self, *, whole: float | None = None) -> Slim:
        """The best finalist: its network with the tensors that were told, its plan, cost and score.

        Where there is but one, it need not have been told. Writes `result.json`; `whole` is your score of the
        whole network, for the report. Raises `InputError` when rounds are left, or no finalist was told.
        """
        with self._work("finish"):
            entries = {entry.plan.hash: entry.plan for entry in self._entries()}
            self._drop()
            finals = self._finals
            if finals.best is None and len(entries) > 1:
                raise InputError(
                    "no finalist was told",
                    "for round in search.finalists(): search.tell(round, score(round.network))",
                )
            plan = entries[finals.best or next(iter(entries))]
            network = self._new_sub(plan).gated.network
            put(finals.tensors, network)
            found = Slim.of(self.channels, plan, network, score=finals.scores.get(plan.hash))
            figures: dict[str, Any] = {"score": found.score, "whole_score": score_of(whole, final=False)}
            figures["plan_hash"] = found.plan.hash
            figures |= {"flops": found.cost.flops, "params": found.cost.params, "counts": found.plan.counts}
            if self._latency is not None and collectives.is_first():
                [figures["latency_ms"]] = self._latency.timer.milliseconds([found.plan])
            self._folder.result({**figures, **self._state.figures()})
        return found

    # What rounds are made of

    def _timed(self, model: nn.Module, example: Any, *, fresh: bool) -> LatencyBudgets | None:
        """What predicts latencies, where the budget is one; costs then have a latency."""
        if self._recipe.latency is None:
            return None
        known = self.path / (f"{LATENCY}.none" if fresh else LATENCY)
        with collectives.together(), shown(self._progress) as told:
            found = of_any(model, self.channels, example, self._recipe, known=known, progress=told)
        self.channels = found.channels
        return found

    @property
    def _judges(self) -> bool:
        return self._task is not None and self._task.loss is not None

    def _loss(self) -> Callable[[Plan], float] | None:
        """What compares plans before a round, at the weights as they are."""
        return self._task.of(self._state.target).recalibrated if self._task and self._judges else None

    def _new_sub(self, plan: Plan) -> SubNetwork:
        """The sub-network of a plan; mended, where its weights are trained and no round has changed them."""
        sub = cut(self._state.target, plan, None)
        if not self._state.round and self._recipe.weights is not None and self._task is not None:
            images = self._recipe.search.reconstruction_images
            best = self._task.best_cut(self._state.target, plan, images)
            put(dict(named_tensors(best)), sub.gated.network)
            collectives.copy_from_first(tensor for _, tensor in named_tensors(sub.gated.network))
        return sub

    def _find_widths(self) -> None:
        """Judge plans at the given weights, once, before the first round."""
        state, task = self._state, self._task
        given = self._recipe.weights is not None and self._proposer.thresholds.policy(0) is not None
        if state.widths_found or task is None or not self._judges or not given:
            return
        identity = json.dumps([self._identity, task.fingerprint()])
        with shown(self._progress) as told:
            found = widths.find(
                state, self._proposer, self._recipe, task.of(state.target), identity,
                history=self._folder.candidates, progress=told,
            )  # fmt: skip
        self._folder.widths(found)
        state.widths_found = True

    def _drop(self) -> None:
        """Nothing stays of a round that was asked for and not told."""
        if self._asked is not None and self._asked[0]._slopes is not None:
            self._asked[0]._slopes.stop()
        self._asked = None

    @contextlib.contextmanager
    def _work(self, *purpose: str | int) -> Iterator[None]:
        """A block of all processes; random numbers that anything in it draws are not the user's."""
        with collectives.together(), seeds.apart(self._recipe.seed, *purpose):
            collectives.decided(self._folder.require_open)
            if not self._whole:
                self._resume()
                self._before = None
            yield

    def __getstate__(self) -> Any:
        raise InputError(
            "a JointSearch is not copied or pickled: it holds its folder",
            "leave it out of what you copy or save; the same call takes it up again",
        )

    def _resume(self) -> bool:
        """Take over the newest checkpoint; False where there is none."""
        saved = self._folder.load()
        if saved is None:
            return False
        tensors, meta = saved
        self._state.restore(tensors, meta)
        self._carried = Carried.of(checkpoint.part(tensors, "carried"), meta["carried"])
        self._finals = Finals(meta["finals"], meta["best"], checkpoint.part(tensors, "best"))
        self._whole = True
        return True

    def _begin(self) -> None:
        """The checkpoint before the first round: the ranking of channels as the network was given."""
        state, task = self._state, self._task
        collectives.copy_from_first(turns.shared_tensors(state).values())
        quiet = contextlib.nullcontext() if task is None else task.looking(state.target.network)
        with shown(self._progress) as told, quiet:
            looks = task if task is not None and self._judges else NOTHING
            self._proposer.importance.prepare(state.target, looks, told)
        self._save()

    def _save(self, line: Mapping[str, Any] | None = None) -> None:
        finals, carried = self._finals, self._carried
        parts = checkpoint.join(carried=carried.tensors(), best=finals.tensors)
        told = {"finals": dict(finals.scores), "best": finals.best}
        document = {**self._state.document(), **told, "carried": carried.document()}
        self._folder.save({**self._state.tensors(), **parts}, document, line)
