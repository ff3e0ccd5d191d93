"""Joint search-and-training: sample, train, update, again and again, from coarse to fine.

Lu, Huang, Dong, Li, Shi, Beyond Network Pruning: a Joint Search-and-Training Approach, IJCAI 2020.

A `Search` is made of rounds (`rounds`), which train one target network by its sub-networks, and of a final
selection for every budget (`selection`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from jstc.channels import ChannelMap
from jstc.channels.budget import Budget
from jstc.core import files, signals
from jstc.core.progress import Progress
from jstc.data import Dataset
from jstc.jst import selection as selections
from jstc.jst import widths
from jstc.jst.phases import resolve_auto
from jstc.jst.plan_judge import Judge
from jstc.jst.proposer import Proposer
from jstc.jst.round import RoundContext
from jstc.jst.rounds import Rounds
from jstc.jst.selection import Selection
from jstc.jst.state import State, fingerprint
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import collectives
from jstc.train.metrics import History

__all__ = ["Search", "search"]


class Search:
    """Search of a plan at each of the recipe's budgets, while the target network's parts are trained.

    The budgets take turns, round by round; all of them train the one `target`, which is changed. `budgets`
    are the recipe's, resolved, by label. Call `run_rounds`, then for every label `select` and `save`, then
    `finish`. The same calls again continue from the checkpoint in `directory`.
    """

    def __init__(
        self,
        target: nn.Module,
        channels: ChannelMap,
        dataset: Dataset,
        *,
        recipe: Recipe,
        budgets: Mapping[str, Budget],
        directory: Path,
        progress: Progress,
    ) -> None:
        recipe = resolve_auto(recipe, dataset)
        self.labels, self._directory, self._progress = recipe.labels, directory, progress
        self._proposer = Proposer(channels, recipe, budgets)
        self._state = State.new(target, channels, self._proposer, recipe)
        self._context = RoundContext.of(
            recipe,
            dataset,
            next(target.parameters()).device,
            trains_gates=self._proposer.importance.trains_gates,
            slopes=self._proposer.importance.follows_training,
            scaler=self._state.scaler,
        )

    def run_rounds(self) -> None:
        """All rounds that are left.

        Writes `history.jsonl` (a line a round) and, after every round and in the middle of long ones,
        `checkpoint.safetensors`. Raises `RunDirectoryError` when the checkpoint belongs to another search,
        `DivergedError` when training diverges more often than the settings allow.
        """
        state, progress = self._state, self._progress
        with signals.signals_deferred():
            self._rounds = Rounds(
                state, self._proposer, self._context, directory=self._directory, progress=progress
            )
            self._find_widths()
            if rounds := self._context.recipe.search.rounds:
                progress.start("search", rounds, "round")
                progress.update(state.round)
            while self._rounds.left:
                record = self._rounds.next()
                progress.update(state.round, **_shown(record))
        if state.round < rounds:
            progress.message(
                f"search: the plans had stopped changing after {state.round} of {rounds} rounds "
                "(search.early_stop_overlap); finetune gets the steps that are left"
            )

    def _find_widths(self) -> None:
        """The width search of every budget, where weights are given and a policy sets widths.

        Writes `candidates.jsonl`. It is made before the first round; a search that goes on after that reads
        there what came of it.
        """
        recipe, thresholds = self._context.recipe, self._proposer.thresholds
        if recipe.weights is None or self._state.widths_found:
            return
        budgets = [n for n in range(len(self.labels)) if thresholds.policy(n) is not None]
        if not budgets:
            return
        judge, identity = Judge(self._state, self._context), self._identity()
        for number in budgets:
            folder = self._folder(self.labels[number])
            found = widths.find(
                self._state,
                self._proposer,
                recipe,
                judge,
                identity,
                history=History(folder / "candidates.jsonl", index="candidate"),
                progress=self._progress,
                budget=number,
                at_rest=self._rounds.at_rest,
            )
            _write(folder / "widths.json", found)
        self._state.widths_found = True

    def _identity(self) -> str:
        """What decides a width search beside its draws: the settings, and the weights that it cuts."""
        settings = fingerprint(self._context.recipe, self._state.target.channels)
        weights = collectives.fingerprint(self._state.target.network.state_dict().values())
        return json.dumps([settings, weights], sort_keys=True)

    def _folder(self, label: str) -> Path:
        return self._directory / label if len(self.labels) > 1 else self._directory

    def select(self, label: str) -> Selection:
        """The best plan for a budget, after the rounds."""
        number = self.labels.index(label)
        found = selections.choose_best(
            self._state, self._proposer, self._context, self._progress, budget=number
        )
        if found.mended is not None:
            self._progress.message(found.mended.sentence)
        return found

    def with_plan(self, selection: Selection, plan: Plan) -> Selection:
        """The selection with another plan, judged as the best one was."""
        return selections.with_plan(selection, plan, self._state, self._context)

    def save(self, label: str, selection: Selection) -> None:
        """Write what was selected for a budget, for finetune, and `result.json`.

        In a folder named by the label where there are several budgets.
        """
        folder = self._folder(label)
        if collectives.is_first():
            files.require_held(folder)
            folder.mkdir(parents=True, exist_ok=True)
        selections.save(selection, self._state, self._context, folder)
        widths = files.read_json(folder / "widths.json") if (folder / "widths.json").exists() else {}
        _write(folder / "result.json", self._shared_result() | self._result(selection) | widths)

    def finish(self) -> None:
        """The plans of all budgets are saved: write what they share, and delete older checkpoints."""
        if len(self.labels) > 1:
            _write(self._directory / "result.json", self._shared_result())
        self._rounds.finish()
        self._progress.finish()

    def _shared_result(self) -> dict[str, Any]:
        state, context = self._state, self._context
        ranked = self._proposer.importance.num_images(context.dataset.train.num_images)
        return {
            "rounds": state.round,
            "settled": state.settled if state.could_settle else None,
            "images_seen": state.images,
            **({"taylor_images": ranked} if ranked else {}),
            "steps": state.round * context.steps,
            "seconds": round(state.seconds, 3),
            **({"rollbacks": state.rollbacks} if state.rollbacks else {}),
        }

    def _result(self, selection: Selection) -> dict[str, Any]:
        best, mended = selection.entry, selection.mended
        cost = self._state.target.channels.cost(best.plan)
        return {
            **({} if mended is None else {"reconstruction": mended.to_dict()}),
            "accuracy": best.accuracy,
            "validation_images": self._context.dataset.search_val.num_images,
            "round_of_plan": best.round,
            "flops": cost.flops,
            "params": cost.params,
        }


def search(
    target: nn.Module,
    channels: ChannelMap,
    dataset: Dataset,
    *,
    recipe: Recipe,
    budgets: Mapping[str, Budget],
    directory: Path,
    progress: Progress,
) -> dict[str, Plan]:
    """Run a `Search` from start to end; returns the plans by label, the best ones as they were searched."""
    found = Search(
        target, channels, dataset, recipe=recipe, budgets=budgets, directory=directory, progress=progress
    )
    plans: dict[str, Plan] = {}
    found.run_rounds()
    for label in found.labels:
        selection = found.select(label)
        found.save(label, selection)
        plans[label] = selection.plan
    found.finish()
    return plans


def _write(path: Path, document: dict[str, Any]) -> None:
    if collectives.is_first():
        files.write_json(path, document)


def _shown(record: dict[str, Any]) -> dict[str, float]:
    return {key: record[key] for key in ("accuracy", "loss", "flops") if record[key] is not None}
