"""From ties to groups: connected ids are one atomic channel, alike atoms form a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.channels.labels import FIRST_FREE, FIXED, INPUT, KERNEL, Ids, Labels, Recorder
from jstc.channels.patterns import layer_of, matches

__all__ = ["Frozen", "Group", "Structure", "build", "components"]


@dataclass(frozen=True)
class Group:
    """Channels that live in the same places and can be kept or removed one by one.

    `layers` are the modules whose parameters hold the channels, in the order of the forward; the first
    names the group. `start` is the number of the group's first channel among all prunable channels.
    """

    name: str
    width: int
    start: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Frozen:
    """Channels that stay whole: a dimension of a layer, how many of its channels, and why."""

    layer: str
    dim: int
    channels: int
    reason: str


@dataclass(frozen=True)
class Structure:
    """Channel numbers of every parameter, and the groups they form.

    `numbers[name][dim]` gives for each position the number of its prunable channel (group-major), or -1 for a
    position that always stays; `None` for a dimension without any prunable channel.
    `atoms` maps each id of the trace to its atomic channel.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    numbers: Mapping[str, tuple[Ids | None, ...]]
    atoms: Ids
    number_of_atom: Ids

    @property
    def total(self) -> int:
        """Number of prunable channels in all groups."""
        return sum(group.width for group in self.groups)

    def number(self, ids: Ids) -> Ids:
        """Channel numbers of trace ids; -1 for those that always stay."""
        return self.number_of_atom[self.atoms[ids]]


def components(size: int, ties: Sequence[tuple[Ids, Ids]]) -> Ids:
    """Connected components of `size` ids under `ties`: for each id the smallest id it is connected to.

    Minimum-label hooking with pointer jumping; scipy has the same, but takes longer to import than a whole
    analysis.
    """
    labels = np.arange(size)
    if not ties:
        return labels
    a, b = (np.concatenate([tie[side] for tie in ties]) for side in (0, 1))
    while True:
        low, high = np.minimum(labels[a], labels[b]), np.maximum(labels[a], labels[b])
        open_ = low != high
        if not open_.any():
            return labels
        a, b = a[open_], b[open_]
        np.minimum.at(labels, high[open_], low[open_])
        while (labels[labels] != labels).any():
            labels = labels[labels]


def build(
    record: Recorder,
    params: Mapping[str, Labels],
    *,
    ignore: Sequence[str] = (),
    atoms_frozen: Mapping[int, str],
) -> Structure:
    """Groups of a trace. `atoms_frozen` gives reasons for atoms that failed a proof."""
    # Reserved ids join nothing: they would make one channel of all that touch them.
    free = [(a, b) for a, b in (_free(*tie) for tie in record.ties) if len(a)]
    atoms = components(record.next_id, free)
    reasons = _reasons(record, params, atoms, ignore)
    for atom, reason in atoms_frozen.items():
        reasons.setdefault(atom, reason)
    frozen = np.zeros(record.next_id, bool)
    frozen[list(reasons)] = True
    frozen[:FIRST_FREE] = True
    order = [name for name in record.used if name in params]
    slots = [(n, d, atoms[ids]) for n in order for d, ids in enumerate(params[n]) if ids is not None]
    counted = [c.dims for c in record.counts]
    groups, number = _number(slots, counted, atoms, frozen)
    lone = _lone(groups, number)
    if lone:  # a group of one channel can't lose any
        reasons.update(dict.fromkeys(lone, "tied into one channel that occurs in many places"))
        frozen[lone] = True
        groups, number = _number(slots, counted, atoms, frozen)
    numbers = {n: tuple(_numbers(ids, atoms, number) for ids in labels) for n, labels in params.items()}
    return Structure(groups, _frozen_list(slots, reasons, frozen), numbers, atoms, number)


def _free(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    keep = (a >= FIRST_FREE) & (b >= FIRST_FREE)
    return a[keep], b[keep]


def _numbers(ids: Ids | None, atoms: Ids, number: Ids) -> Ids | None:
    if ids is None:
        return None
    found = number[atoms[ids]]
    return found if (found >= 0).any() else None


def _reasons(
    record: Recorder, params: Mapping[str, Labels], atoms: Ids, ignore: Sequence[str]
) -> dict[int, str]:
    """Why an atom can't be cut, for each that can't; the first reason found stays."""
    reasons: dict[int, str] = {}

    def add(ids: Ids, reason: str) -> None:
        for atom in np.unique(atoms[ids[ids >= FIRST_FREE]]).tolist():
            reasons.setdefault(atom, reason)

    for a, b in record.ties:
        for mine, other in ((a, b), (b, a)):
            add(mine[other == INPUT], "network input")
            add(mine[other == FIXED], "meets a dimension of fixed size")
            add(mine[other == KERNEL], "")  # not a channel at all
    for ids, reason in record.frozen:
        add(ids, reason)
    for name, labels in params.items():
        pattern = next((p for p in ignore if matches(layer_of(name), p)), None)
        for found in labels:
            if found is not None and name not in record.used:
                add(found, "not used by the forward")
            elif found is not None and pattern is not None:
                add(found, f"ignored by the pattern '{pattern}'")
    return reasons


def _lone(groups: Sequence[Group], number: Ids) -> list[int]:
    starts = [group.start for group in groups if group.width == 1]
    return np.flatnonzero(np.isin(number, starts)).tolist() if starts else []


Slots = list[tuple[str, int, Ids]]


def _number(
    slots: Slots, counted: Sequence[tuple[Ids, ...]], atoms: Ids, frozen: NDArray[np.bool_]
) -> tuple[tuple[Group, ...], Ids]:
    """Number the prunable atoms group by group, in the order in which the forward meets them."""
    places = [a for _, _, a in slots] + [atoms[ids] for dims in counted for ids in dims]
    signature = _signatures(places, len(atoms))
    number = np.full(len(atoms), -1)
    members: dict[int, Ids] = {}
    layers: dict[int, dict[str, None]] = {}
    for name, _, place in slots:
        found = place[~frozen[place]]
        _, first = np.unique(found, return_index=True)
        new = found[np.sort(first)]
        for key in dict.fromkeys(signature[new].tolist()):
            members.setdefault(key, new[signature[new] == key])
            layers.setdefault(key, {})[name.rpartition(".")[0] or name] = None
    groups: list[Group] = []
    start, names = 0, set[str]()
    for key, own in members.items():
        number[own] = np.arange(start, start + len(own))
        groups.append(Group(_unique(next(iter(layers[key])), names), len(own), start, tuple(layers[key])))
        start += len(own)
    return tuple(groups), number


def _signatures(places: Sequence[Ids], size: int) -> NDArray[np.uint64]:
    """A hash per atom of the multiset of places it occurs in, so that alike atoms have equal hashes."""
    signature = np.zeros(size, np.uint64)
    random = np.random.default_rng(0).integers(1, 2**63, size=len(places), dtype=np.uint64)
    for place, ids in enumerate(places):
        unique, counts = np.unique(ids, return_counts=True)
        signature[unique] += random[place] * counts.astype(np.uint64)
    return signature


def _unique(name: str, names: set[str]) -> str:
    candidate, n = name, 2
    while candidate in names:
        candidate, n = f"{name}#{n}", n + 1
    names.add(candidate)
    return candidate


def _frozen_list(slots: Slots, reasons: Mapping[int, str], frozen: NDArray[np.bool_]) -> tuple[Frozen, ...]:
    """Frozen channels by layer and dimension; positions of space and kernels are none."""
    found: dict[tuple[str, int, str], int] = {}
    for name, dim, ids in slots:
        for atom in ids[frozen[ids] & (ids >= FIRST_FREE)].tolist():
            if reasons[atom]:
                key = (name, dim, reasons[atom])
                found[key] = found.get(key, 0) + 1
    seen: dict[tuple[str, int, str], Frozen] = {}
    for (name, dim, reason), channels in found.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" or (layer, dim, reason) not in seen:
            seen[layer, dim, reason] = Frozen(layer or name, dim, channels, reason)
    return tuple(seen.values())
