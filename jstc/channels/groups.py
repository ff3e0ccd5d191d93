"""From ties to groups: connected ids are one atomic channel (an atom), alike atoms form a group.

The ids of a trace are nodes, its ties edges; an atom is a connected component. Atoms that occur in the same
dimensions of the same parameters and operations, equally often, can take each other's place: they are the
channels of one `Group`. Atoms that meet something uncuttable are `Frozen`, with the first reason found.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from jstc.channels.trace.ids import FIRST_FREE, FIXED, INPUT, KERNEL, Ids, Labels, Recorder
from jstc.errors import InputError

__all__ = [
    "Connected",
    "Frozen",
    "Group",
    "Structure",
    "build",
    "components",
    "layer_of",
    "matches",
    "near",
    "require_matches",
]

# -- atomic channels ----------------------------------------------------------------------------------------


def components(size: int, ties: Sequence[tuple[Ids, Ids]]) -> Ids:
    """Connected components of `size` ids under `ties`: for each id the smallest id it is connected to.

    Minimum-label hooking with pointer jumping (Shiloach and Vishkin 1982). scipy has it as well, but takes
    longer to import than a whole analysis.
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
        return self._number_of_id[ids]

    @cached_property
    def _number_of_id(self) -> Ids:
        return self.number_of_atom[self.atoms]


def build(
    record: Recorder,
    params: Mapping[str, Labels],
    *,
    ignore: Sequence[str] = (),
    atoms_frozen: Mapping[int, str],
) -> Structure:
    """Groups of a trace. `atoms_frozen` gives reasons for atoms that failed a proof."""
    return Connected(record, params, ignore=ignore).structure(atoms_frozen)


class Connected:
    """The atomic channels of a trace, where they occur and why some are frozen: `structure` makes groups.

    Everything is done for all occurrences at once: a network has thousands, most of them of a few ids.
    """

    def __init__(
        self,
        record: Recorder,
        params: Mapping[str, Labels],
        *,
        ignore: Sequence[str] = (),
        more: Sequence[tuple[Ids, Ids]] = (),
    ) -> None:
        """`more` are ties beside those of the record."""
        self._again = functools.partial(Connected, record, params, ignore=ignore)
        self._more = tuple(more)
        self._params = [
            (n, d, ids) for n, dims in params.items() for d, ids in enumerate(dims) if ids is not None
        ]
        self._ranks = {name: len(dims) for name, dims in params.items()}
        ties = (*record.ties, *more)
        a, b = _joined([tie[0] for tie in ties]), _joined([tie[1] for tie in ties])
        low, high = np.minimum(a, b), np.maximum(a, b)
        # Reserved ids join nothing: they would make one channel of all that touch them.
        free = low >= FIRST_FREE
        self._atoms = components(record.next_id, [(low[free], high[free])])
        self._reasons = _Reasons(self._atoms)
        self._reasons.met(high[~free], low[~free])
        self._collect_reasons(record, ignore)
        self._occurrences = _Occurrences(record, params, self._atoms)

    def _collect_reasons(self, record: Recorder, ignore: Sequence[str]) -> None:
        for ids, reason in record.frozen:
            self._reasons.add(ids, reason)
        for name, _, ids in self._params:
            pattern = next((p for p in ignore if matches(layer_of(name), p)), None)
            if name not in record.used:
                self._reasons.add(ids, "not used by the forward")
            elif pattern is not None:
                self._reasons.add(ids, f"ignored by the pattern '{pattern}'")

    @property
    def atoms(self) -> Ids:
        """The atomic channel of each id: the smallest id that it is connected to."""
        return self._atoms

    def tied(self, ties: Sequence[tuple[Ids, Ids]]) -> Connected:
        """These channels with further ones that must be equal, position by position."""
        return self._again(more=(*self._more, *ties))

    def structure(self, atoms_frozen: Mapping[int, str]) -> Structure:
        """Groups of all that is not frozen; `atoms_frozen` gives reasons for further atoms that are."""
        reasons = self._reasons.copy()
        for reason in dict.fromkeys(atoms_frozen.values()):
            reasons.add(np.array([a for a, r in atoms_frozen.items() if r == reason]), reason)
        groups, number = self._occurrences.number(reasons.frozen)
        lone = [group.start for group in groups if group.width == 1]
        if lone:  # a group of one channel can't lose any
            reasons.add(
                np.flatnonzero(np.isin(number, lone)), "tied into one channel that occurs in many places"
            )
            groups, number = self._occurrences.number(reasons.frozen)
        return Structure(
            groups, self._occurrences.frozen(reasons), self._numbers(number), self._atoms, number
        )

    def _numbers(self, number: Ids) -> dict[str, tuple[Ids | None, ...]]:
        found: dict[str, list[Ids | None]] = {name: [None] * rank for name, rank in self._ranks.items()}
        of_id = number[self._atoms]
        whole = of_id[_joined([ids for _, _, ids in self._params])]
        start = 0
        for name, dim, ids in self._params:
            own = whole[start : start + len(ids)]
            start += len(ids)
            if own.max(initial=-1) >= 0:
                found[name][dim] = own
        return {name: tuple(dims) for name, dims in found.items()}


def _joined(arrays: Sequence[Ids]) -> Ids:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


class _Reasons:
    """Why atoms can't be cut: the first reason that was found for each; those without one can."""

    def __init__(self, atoms: Ids) -> None:
        self._atoms = atoms
        # "" is the reason of what is not a channel at all
        self.texts = {"": 0, "network input": 1, "meets a dimension of fixed size": 2}
        self.code = np.full(len(atoms), -1)
        self.code[:FIRST_FREE] = 0

    def copy(self) -> _Reasons:
        other = copy.copy(self)
        other.texts, other.code = {**self.texts}, self.code.copy()
        return other

    @property
    def frozen(self) -> NDArray[np.bool_]:
        return self.code >= 0

    def met(self, ids: Ids, reserved: Ids) -> None:
        """The channels `ids` must be equal to `reserved` ones."""
        code = np.zeros(FIRST_FREE, np.int64)
        code[[INPUT, FIXED, KERNEL]] = [1, 2, 0]
        free = ids >= FIRST_FREE
        self.code[self._atoms[ids[free]][::-1]] = code[reserved[free]][::-1]  # of equals the last write stays

    def add(self, ids: Ids, reason: str) -> None:
        atoms = self._atoms[ids[ids >= FIRST_FREE]]
        atoms = atoms[self.code[atoms] < 0]
        if len(atoms):
            self.code[atoms] = self.texts.setdefault(reason, len(self.texts))


class _Occurrences:
    """All places in which atoms occur: dimensions of used parameters (`slots`), and of counted operations."""

    def __init__(self, record: Recorder, params: Mapping[str, Labels], atoms: Ids) -> None:
        used = [name for name in record.used if name in params]
        own = [(n, d, ids) for n in used for d, ids in enumerate(params[n]) if ids is not None]
        places = [ids for _, _, ids in own] + [ids for count in record.counts for ids in count.dims]
        widths = np.array([len(ids) for ids in places], np.int64)
        found, place = atoms[_joined(places)], np.repeat(np.arange(len(places)), widths)
        self._signature = _signatures(found, place, len(atoms))
        self._slots = [(name, dim) for name, dim, _ in own]
        inside = int(widths[: len(own)].sum())
        self._atom, self._slot = found[:inside], place[:inside]
        self._first = np.full(len(atoms), inside)  # where an atom occurs first
        self._first[self._atom[::-1]] = np.arange(inside)[::-1]

    def number(self, frozen: NDArray[np.bool_]) -> tuple[tuple[Group, ...], Ids]:
        """Number the other atoms group by group, in the order in which the forward meets them."""
        members = np.flatnonzero(~frozen & (self._first < len(self._atom)))
        members = members[np.argsort(self._first[members])]
        _, first, key = np.unique(self._signature[members], return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        group_of = np.full(len(frozen), -1)
        group_of[members] = rank[key]
        number = np.full(len(frozen), -1)
        number[members[np.argsort(rank[key], kind="stable")]] = np.arange(len(members))
        return self._groups(group_of, np.bincount(rank[key], minlength=len(first))), number

    def _groups(self, group_of: Ids, widths: Ids) -> tuple[Group, ...]:
        layers: list[dict[str, None]] = [{} for _ in widths]
        for slot, group in self._pairs(group_of[self._atom], len(widths))[0]:
            layers[group][layer_of(self._slots[slot][0])] = None
        starts, names = np.cumsum(widths) - widths, set[str]()
        return tuple(
            Group(_unique(next(iter(own)), names), width, start, tuple(own))
            for own, width, start in zip(layers, widths.tolist(), starts.tolist(), strict=True)
        )

    def _pairs(self, values: Ids, below: int) -> tuple[list[tuple[int, int]], list[int]]:
        """Pairs of a slot and a value (-1 for none is left out), in order, and how often each occurs."""
        inside = values >= 0
        found, counts = np.unique(self._slot[inside] * below + values[inside], return_counts=True)
        return list(zip(*(x.tolist() for x in np.divmod(found, max(below, 1))), strict=True)), counts.tolist()

    def frozen(self, reasons: _Reasons) -> tuple[Frozen, ...]:
        """Frozen channels by layer and dimension; positions of space and kernels are none."""
        code = reasons.code[self._atom]
        code[code == 0] = -1
        texts = list(reasons.texts)
        seen: dict[tuple[str, int, str], Frozen] = {}
        for (slot, reason), channels in zip(*self._pairs(code, len(texts)), strict=True):
            (name, dim), text = self._slots[slot], texts[reason]
            layer, _, kind = name.rpartition(".")
            if kind == "weight" or (layer, dim, text) not in seen:
                seen[layer, dim, text] = Frozen(layer or name, dim, channels, text)
        return tuple(seen.values())


def _signatures(atoms: Ids, place: Ids, size: int) -> NDArray[np.uint64]:
    """A hash per atom of the multiset of places it occurs in, so that alike atoms have equal hashes."""
    most = int(place.max(initial=-1)) + 1
    random = np.random.default_rng(0).integers(1, 2**63, size=most, dtype=np.uint64)
    signature = np.zeros(size, np.uint64)
    np.add.at(signature, atoms, random[place])
    return signature


def _unique(name: str, names: set[str]) -> str:
    candidate, n = name, 2
    while candidate in names:
        candidate, n = f"{name}#{n}", n + 1
    names.add(candidate)
    return candidate


# -- patterns that name layers, as users write them in `channels.ignore` and `channels.groups` ---------------
#
# A pattern is a shell pattern over module names (`*` also spans dots) and stands for a module together with
# all that is inside it: `layer4` and `layer4.*` both match `layer4.0.conv1`.


def layer_of(parameter: str) -> str:
    """The name of the module that holds a parameter; its own name for a parameter of the network itself."""
    return parameter.rpartition(".")[0] or parameter


def matches(name: str, pattern: str) -> bool:
    """Does the pattern stand for the module `name`, or for one that it is inside of?"""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def require_matches(patterns: Iterable[str], parameters: Iterable[str]) -> None:
    """Raise `InputError`, with near names, for a pattern to ignore that matches no module with weights."""
    names = list(dict.fromkeys(layer_of(name) for name in parameters))
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise InputError(f"ignore: '{pattern}' matches no module with weights", near(pattern, names))


def near(pattern: str, names: Sequence[str]) -> str:
    """Names, or modules around them, that the pattern may have been meant for, in words."""
    parts = [name.split(".") for name in names]
    known = dict.fromkeys(".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1))
    plain = pattern.removesuffix(".*")
    alike = [name for name in known if name.lower() == plain.lower()]
    alike = alike or difflib.get_close_matches(plain, known, n=3) or list(names[:3])
    return "names there are such as " + ", ".join(f"'{name}'" for name in alike)
