"""Cut everything by some amount and run the forward: what survives may be offered.

Sizes written into a forward (a number of heads, a stored width, a view with a literal) can make a cut
invalid even where the ids agree. The sliced network is traced once more, its parameters labelled with
the channels that the uncut network found: a forward that fails, or in which different channels meet,
names the channels at fault, which are frozen before the next try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from jstc.channels.groups import Structure
from jstc.channels.labelling import Labelling
from jstc.channels.labels import FIRST_FREE, FIXED, Ids, Labels
from jstc.channels.slicing import cut_module, indices, keep_vector
from jstc.channels.trace import run
from jstc.plan import Plan

__all__ = ["prove"]

_TRIES = 24


def prove(
    model: nn.Module,
    inputs: Sequence[Any],
    rebuild: Callable[[dict[int, str]], Structure],
    traced: Labelling,
) -> Structure:
    """The structure in which any cut is valid, as far as one random cut of every group can tell.

    `rebuild` makes a structure from frozen atoms with their reasons; `traced` ran the uncut network.
    """
    guilty: dict[int, str] = {}
    structure = rebuild(guilty)

    def trial(only: set[str] | None = None) -> Failure | None:
        return _failure(model, inputs, structure, traced, only)

    for attempt in range(_TRIES):
        failure = trial()
        if failure is None:
            return structure
        suspects = failure.groups if attempt < _TRIES - 1 else ()
        for name, reason in _culprits(structure, trial, suspects, failure.reason).items():
            guilty.update(dict.fromkeys(_atoms(structure, name), reason))
        structure = rebuild(guilty)
    return structure if trial() is None else rebuild({**guilty, **_everything(structure)})


def _culprits(
    structure: Structure,
    trial: Callable[[set[str] | None], Failure | None],
    suspects: Sequence[str],
    reason: str,
) -> dict[str, str]:
    """Groups to freeze, with reasons: the only suspect; else those that fail on their own; else all suspects.

    Groups that only meet the one at fault are not to suffer for it. Without suspects every group is one.
    """
    if len(suspects) == 1:
        return {suspects[0]: reason}
    names = [group.name for group in structure.groups]
    for among in (suspects, [n for n in names if n not in suspects]):
        failures = {name: trial({name}) for name in among}
        found = {name: failure.reason for name, failure in failures.items() if failure is not None}
        if found:
            return found
    return dict.fromkeys(suspects or names, reason)


def _atoms(structure: Structure, name: str) -> list[int]:
    group = next(g for g in structure.groups if g.name == name)
    numbers = np.arange(group.start, group.start + group.width)
    return np.flatnonzero(np.isin(structure.number_of_atom, numbers)).tolist()


def _everything(structure: Structure) -> dict[int, str]:
    atoms = np.flatnonzero(structure.number_of_atom >= 0).tolist()
    return dict.fromkeys(atoms, "cannot be cut: every cut that was tried failed")


def trial_plan(structure: Structure, only: set[str] | None = None) -> Plan:
    """A plan that cuts every group (or those in `only`) at places that no contiguous slice would hit."""
    kept: dict[str, tuple[int, ...]] = {}
    random = np.random.default_rng(0)
    for group in structure.groups:
        if only is not None and group.name not in only:
            kept[group.name] = tuple(range(group.width))
            continue
        # An odd number, because sizes written into a forward are mostly even and might divide an even one;
        # not one if possible, because nobody can tell such a dimension from others of size one in a view.
        count = int(group.width * random.uniform(0.35, 0.85)) // 2 * 2 + 1
        count = min(max(count, 3), group.width - 1)
        kept[group.name] = tuple(sorted(random.permutation(group.width)[:count].tolist()))
    return Plan(kept, {group.name: group.width for group in structure.groups})


@dataclass(frozen=True)
class Failure:
    """Groups whose channels met at the operation at which a trial cut failed, and what it said."""

    groups: tuple[str, ...]
    reason: str


def _failure(
    model: nn.Module,
    inputs: Sequence[Any],
    structure: Structure,
    traced: Labelling,
    only: set[str] | None,
) -> Failure | None:
    """What goes wrong when all groups (or those in `only`) are cut; None when nothing does."""
    plan = trial_plan(structure, only)
    small = cut_module(model, indices(structure, plan))
    kept = partial(_kept, structure, keep_vector(structure, plan))
    labels = {name: kept(dims) for name, dims in traced.params.items()}
    labelling = Labelling(small, labels, [kept(part) for part in traced.record.parts])
    try:
        run(small, inputs, labelling)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Failure(
            _groups_of(structure, labelling.last_ids), f"cannot be cut: {line[:120]} ({labelling.last_op})"
        )
    return None


def _groups_of(structure: Structure, suspects: Sequence[Ids]) -> tuple[str, ...]:
    """All groups that the suspects belong to: alike channels fail alike."""
    met = np.unique(np.concatenate([*suspects, np.zeros(0, np.int64)]))
    numbers = structure.number_of_atom[met[met >= FIRST_FREE]]
    return tuple(
        g.name for g in structure.groups if ((numbers >= g.start) & (numbers < g.start + g.width)).any()
    )


def _kept(structure: Structure, keep: Ids, labels: Labels) -> Labels:
    """Labels after a cut: the atom of each kept position, `FIXED` where nothing can be cut."""
    kept: list[Ids | None] = []
    for ids in labels:
        if ids is None:
            kept.append(None)
            continue
        number = structure.number(ids)
        kept.append(np.where(number >= 0, structure.atoms[ids], FIXED)[keep[number] == 1])
    return tuple(kept)
