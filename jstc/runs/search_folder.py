"""What a `JointSearch` goes by and leaves: its settings, what makes it the same search, and its folder.

search.json              network, budget and groups, for people
checkpoint.safetensors   everything that the search goes on from; written after every round
history.jsonl            a line a round; candidates.jsonl: a line a plan that was judged untrained
result.json              what came of it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap
from jstc.channels.trace.ids import named_tensors
from jstc.core import files
from jstc.data.base import GIVEN
from jstc.errors import FolderGoneError, RecipeError, RunDirectoryError
from jstc.jst.phases import begun_at_budget
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import directory, guard
from jstc.train import checkpoint, collectives
from jstc.train.checkpoint import Checkpoints, Saved
from jstc.train.metrics import History

__all__ = ["LATENCY", "SearchFolder", "identity_of", "recipe_of"]

_VERSION = 1

_CHECKPOINT = "checkpoint.safetensors"
LATENCY = "latency.json"
_LOGS = ("history.jsonl", "candidates.jsonl")
_RESULTS = ("widths.json", "result.json", "report.md", "report.html")
_FILES = (
    _CHECKPOINT, "checkpoint.1.safetensors", LATENCY, *_LOGS, *_RESULTS, "search.json",
)  # fmt: skip
_LOCKS = (".lock", ".lock-holder.json")
_open: dict[Path, SearchFolder] = {}
"""Folders that this process has locked: a cell of a notebook that runs again takes over its own."""


class SearchFolder:
    """An open folder, locked; `identity` says what makes a search the same one.

    Raises `RunDirectoryError` when another process has the folder, or when it holds something else.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, fresh: bool) -> None:
        self.path, self._identity = path, identity
        self._lock = contextlib.ExitStack()
        self._saved = Checkpoints(
            self.path / _CHECKPOINT, keep=2, check=self._require_same, warn=warnings.warn
        )
        self._history = History(self.path / "history.jsonl", index="round")
        self._loaded: list[Saved | None] = []
        collectives.decided(lambda: self._acquire(fresh=fresh))

    @property
    def candidates(self) -> History:
        """Log of the plans that were judged without training."""
        return History(self.path / "candidates.jsonl", index="candidate")

    def _acquire(self, *, fresh: bool) -> None:
        self._require_ours()
        before, own = _open.get(self.path), contextlib.ExitStack()
        with own:
            shares = before is not None and before.is_locked
            if not shares:
                own.enter_context(directory.locked(self.path))
            guard.delete_leftovers(self.path, ())
            # Where that is another search's, the one that this process has open goes on.
            self._loaded = [] if fresh else [self._saved.load()]
            self._lock = before._lock if before is not None and shares else own.pop_all()
        _open[self.path] = self
        for name in _FILES if fresh else ():
            (self.path / name).unlink(missing_ok=True)

    def _require_ours(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file", "give a folder of the search's own")
        there = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        # A process that was killed in its first write has left nothing but a part of that.
        other = {name for name in there - {*_FILES, *_LOCKS} if not name.startswith(guard.LEFTOVER)}
        if other and not there & {"search.json"}:
            names = ", ".join(sorted(other)[:3])
            raise RunDirectoryError(
                f"{self.path} holds something else ({names})", "give a folder of the search's own"
            )

    @property
    def is_locked(self) -> bool:
        """Whether the folder, with the lock in it, is still the one that was locked."""
        try:
            files.require_held(self.path / _CHECKPOINT)
        except FolderGoneError:
            self._lock.close()
            return False
        return True

    def require_open(self) -> None:
        """Raise `RunDirectoryError` when a later search of this process has taken the folder over."""
        if collectives.is_first() and _open.get(self.path) is not self:
            raise RunDirectoryError(
                f"{self.path} was taken over by a later JointSearch of this program", "go on with that one"
            )

    def describe(self, document: Mapping[str, Any]) -> None:
        """Write `search.json`."""
        self._write("search.json", {"schema": 1, **document})

    def widths(self, document: Mapping[str, Any]) -> None:
        """Keep what a width search came to, for the result."""
        self._write("widths.json", document)

    def result(self, document: Mapping[str, Any]) -> None:
        """Write `result.json`, with what the width search came to."""
        path = self.path / "widths.json"
        if collectives.is_first():
            self._write("result.json", {**document, **(files.read_json(path) if path.exists() else {})})

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        if collectives.is_first():
            files.write_json(self.path / name, dict(document))

    def load(self) -> Saved | None:
        """Tensors and document of the newest checkpoint, in all processes; None where there is none."""
        saved = collectives.from_first(lambda: self._loaded.pop() if self._loaded else self._saved.load())
        if collectives.is_first():
            self._history.truncate(0 if saved is None else saved[1]["round"])
            for name in _RESULTS if saved is None else ():  # of a search whose checkpoint was deleted
                (self.path / name).unlink(missing_ok=True)
        return saved

    def save(
        self,
        tensors: Mapping[str, Tensor],
        document: Mapping[str, Any],
        line: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the checkpoint, and before it a line of the history; the first process does."""

        def write() -> None:
            # The history first: a line too many is dropped on resume, a line too few would be missing.
            if line is not None:
                self._history.append(line)
            self._saved.save(tensors, {"identity": self._identity, **document})

        collectives.decided(write)

    def _require_same(self, meta: Mapping[str, Any], path: Path) -> None:
        different = checkpoint.differences(meta.get("identity"), self._identity)
        if different:
            advice = "give another folder, or fresh=True"
            if different == ["weights"]:
                advice = f"give the network the weights that it had then (torch.manual_seed), or {advice}"
            raise RunDirectoryError(
                f"{path} belongs to another search ({', '.join(different)} differ)",
                advice,
                details=_changed(meta.get("identity"), self._identity, different),
            )


def _changed(theirs: Any, ours: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Settings that are not as they were: `search.candidates: 160 there, 16 here`."""
    found = []
    for name in names:
        before, now = (document.get(name) for document in (theirs or {}, ours))
        if isinstance(before, dict) and isinstance(now, dict) and name != "widths":
            keys = checkpoint.differences(before, now)
            found += [f"{name}.{key}: {before.get(key)} there, {now.get(key)} here" for key in keys]
        elif not isinstance(now, dict):
            found.append(f"{name}: {before} there, {now} here")
    return found


# What a search goes by

_OF_TRAINING = frozenset(
    {
        "epochs_per_round", "steps_per_round", "gate_steps", "candidate_images", "recalibration_images",
        "eval_images", "eval_every", "compile",
    }
)  # fmt: skip
"""Keys of `search` that say how rounds are trained and judged."""
_ARGUMENTS = {"search.rounds": "rounds", "channels.ignore": "ignore"} | {
    key: key for key in ("flops", "params", "latency", "seed")
}


def recipe_of(
    settings: Mapping[str, Any] | Sequence[str],
    given: Mapping[str, Any],
    *,
    trained: bool,
    batches: bool,
    judged: bool,
) -> Recipe:
    """The settings as a recipe; `judged`: plans are, by the user's batches and loss.

    Raises `RecipeError` for keys that are not of a search of this kind, and for those that do nothing in it.
    """
    given = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
    arguments = {"model": "given", "dataset": GIVEN, **given, **({"weights": "given"} if trained else {})}
    found = begun_at_budget(loading.from_python({}, settings, arguments))
    has = {"trained": trained, "batches": batches, "loss": judged}
    keys = _require_used(settings, {**has, "latency": given.get("latency") is not None})
    if not judged and not trained and "search.candidates" not in keys:
        found = found.model_copy(update={"search": found.search.model_copy(update={"candidates": 1})})
    if found.search.importance in ("taylor", "weighted", "weighted_taylor"):
        raise RecipeError(
            f"search.importance: {found.search.importance} is not for any training loop",
            "gradient, magnitude, learned and random are",
        )
    if not found.search.rounds and not trained:
        raise RecipeError(
            "rounds=0 cuts a network as it is, and nothing says that this one is trained", "give trained=True"
        )
    if len(found.budgets) > 1:
        raise RecipeError("several budgets: give one, of whatever bounds; a search here has but one")
    return found


def _require_used(settings: Mapping[str, Any] | Sequence[str], has: Mapping[str, bool]) -> set[str]:
    """The keys of the settings, `section.key`, each of which does something here."""
    keys: set[str] = set()
    for path, value, origin in loading.said_in(settings):
        own = [(*path, name) for name in value] if len(path) == 1 and isinstance(value, Mapping) else [path]
        for key in (".".join(map(str, each[:2])) for each in own):
            keys.add(key)
            needs = _needs(key, value, has)
            if needs:
                raise RecipeError(f"{origin}: {key} does nothing here", needs)
    return keys


def _needs(key: str, value: Any, has: Mapping[str, bool]) -> str:
    """What a key that does nothing would need; empty for one that does something."""
    section, _, name = key.partition(".")
    needs: dict[str, Sequence[str]] = {
        "search.candidates": () if value == 1 else ("batches", "loss"),
        "search.importance_images": ("trained", "batches", "loss"),
        "search.reconstruction_images": ("trained", "batches"),
    }
    if key in _ARGUMENTS:
        return f"say it by {_ARGUMENTS[key]}="
    if section not in ("search", "channels", "latency_on") or (section == "search" and name in _OF_TRAINING):
        return "training, its data and its judging are your own loop's"
    needed = needs.get(key, ["latency"] if section == "latency_on" else [])
    missing = [each for each in needed if not has[each]]
    return f"it is for searches with {' and '.join(f'{each}=' for each in missing)}" if missing else ""


def identity_of(
    model: nn.Module, channels: ChannelMap, recipe: Recipe, *, judged: bool, key: str
) -> dict[str, Any]:
    """What makes a search the same search when it is called again."""
    budget = {name: getattr(recipe, name) for name in ("flops", "params", "latency")}
    return {
        "version": _VERSION,
        "class": type(model).__qualname__,
        "shapes": hashlib.sha256(json.dumps(channels.shapes()).encode()).hexdigest()[:12],
        "weights": _digest(model),
        "widths": channels.widths,
        "trained": recipe.weights is not None,
        "judged": judged,
        "search": recipe.search.model_dump(mode="json"),
        "channels": recipe.channels.model_dump(mode="json"),
        "budget": {name: str(bound) for name, bound in budget.items() if bound is not None},
        "latency_on": recipe.latency_on.model_dump(mode="json") if recipe.latency is not None else None,
        "flops": channels.cost().flops,
        "seed": recipe.seed,
        "key": str(key),
    }


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in named_tensors(model):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
