"""Cut everything by some amount and run the forward: what survives may be offered.

Sizes written into a forward (a number of heads, a stored width, a view with a literal) can make a cut
invalid even where the ids agree. The sliced network is traced once more, its parameters labelled with
the channels that the uncut network found: a forward that fails, or in which different channels meet,
names the channels at fault, which are frozen before the next try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from jstc.channels.groups import Structure
from jstc.channels.slicing import cut_module, indices, keep_vector
from jstc.channels.trace import FIRST_FREE, FIXED, Ids, Labels, Tracer
from jstc.plan import Plan

__all__ = ["prove"]

_TRIES = 24


def prove(
    model: nn.Module,
    inputs: Sequence[Any],
    rebuild: Callable[[dict[int, str]], Structure],
    labels: dict[str, Labels],
) -> Structure:
    """The structure in which any cut is valid, as far as one random cut of every group can tell.

    `rebuild` makes a structure from frozen atoms with their reasons.
    """
    guilty: dict[int, str] = {}
    structure = rebuild(guilty)
    for _ in range(_TRIES):
        failure = _failure(model, inputs, structure, labels)
        if failure is None:
            return structure
        suspects, reason = failure
        if not suspects:
            break
        guilty.update(dict.fromkeys(suspects, reason))
        structure = rebuild(guilty)
    return _bisect(model, inputs, rebuild, labels, guilty)


def _bisect(
    model: nn.Module,
    inputs: Sequence[Any],
    rebuild: Callable[[dict[int, str]], Structure],
    labels: dict[str, Labels],
    guilty: dict[int, str],
) -> Structure:
    """No operation could be blamed: freeze the groups that fail on their own, and then all if need be."""
    structure = rebuild(guilty)
    for group in structure.groups:
        failure = _failure(model, inputs, structure, labels, only={group.name})
        if failure is not None:
            numbers = np.arange(group.start, group.start + group.width)
            atoms = np.flatnonzero(np.isin(structure.number_of_atom, numbers))
            guilty.update(dict.fromkeys(atoms.tolist(), failure[1]))
    structure = rebuild(guilty)
    failure = _failure(model, inputs, structure, labels)
    if failure is None:
        return structure
    atoms = np.flatnonzero(structure.number_of_atom >= 0)
    return rebuild({**guilty, **dict.fromkeys(atoms.tolist(), failure[1])})


def trial_plan(structure: Structure, only: set[str] | None = None) -> Plan:
    """A plan that cuts every group (or those in `only`) at places that no contiguous slice would hit."""
    kept: dict[str, tuple[int, ...]] = {}
    random = np.random.default_rng(0)
    for group in structure.groups:
        if only is not None and group.name not in only:
            kept[group.name] = tuple(range(group.width))
            continue
        count = max(1, int(group.width * random.uniform(0.35, 0.85)) - (group.width == 2))
        kept[group.name] = tuple(sorted(random.permutation(group.width)[:count].tolist()))
    return Plan(kept, {group.name: group.width for group in structure.groups})


def _failure(
    model: nn.Module,
    inputs: Sequence[Any],
    structure: Structure,
    labels: dict[str, Labels],
    only: set[str] | None = None,
) -> tuple[list[int], str] | None:
    """Prunable atoms that met at the operation at which a trial cut failed, and what it said."""
    plan = trial_plan(structure, only)
    small = cut_module(model, indices(structure, plan))
    tracer = Tracer(small, _kept_labels(structure, plan, labels))
    try:
        tracer.run(inputs)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = f"cannot be cut: {line[:120]} ({tracer.last_op})"
        return _groups_of(structure, tracer.last_ids), reason
    return None


def _groups_of(structure: Structure, suspects: Sequence[Ids]) -> list[int]:
    """All atoms of the groups that the suspects belong to: alike channels fail alike."""
    met = np.unique(np.concatenate([*suspects, np.zeros(0, np.int64)]))
    numbers = structure.number_of_atom[met[met >= FIRST_FREE]]
    guilty = [g for g in structure.groups if ((numbers >= g.start) & (numbers < g.start + g.width)).any()]
    spans = [np.arange(g.start, g.start + g.width) for g in guilty]
    return np.flatnonzero(
        np.isin(structure.number_of_atom, np.concatenate([*spans, np.zeros(0, np.int64)]))
    ).tolist()


def _kept_labels(structure: Structure, plan: Plan, labels: dict[str, Labels]) -> dict[str, Labels]:
    """Labels of the sliced parameters: the atom of each kept position, `FIXED` where nothing can be cut."""
    keep = keep_vector(structure, plan)
    out: dict[str, Labels] = {}
    for name, dims in labels.items():
        kept: list[Ids | None] = []
        for ids in dims:
            if ids is None:
                kept.append(None)
                continue
            number = structure.number(ids)
            kept.append(np.where(number >= 0, structure.atoms[ids], FIXED)[keep[number] == 1])
        out[name] = tuple(kept)
    return out
