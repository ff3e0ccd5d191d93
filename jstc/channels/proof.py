"""Proof of the groups: everything is cut by some amount and the forward run; what survives may be offered.

Sizes written into a forward (a number of heads, a stored width, a view with a literal) can make a cut
invalid even where the ids agree. So the sliced network is traced once more, its parameters labelled with the
channels that the uncut network found (`jstc.channels.replay`). The loop of `prove`:

    trial         cut all groups, run, and collect the failures: where each is, which channels met there,
                  and which sizes no longer fit
    learn         an attribute of that module that holds such a size follows the cut from now on; dimensions
                  that take their size from one number are tied; an attribute whose following makes the
                  operation fail is given up; else the suspected groups are frozen with the reason
    trial again   with the groups that are left, until nothing fails

A turn that changes none of these ends it, and so do `_TRIES` turns: everything is frozen then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from jstc.channels.cutting.attributes import Sized, sized_attributes, sized_norms, values
from jstc.channels.cutting.slicing import cut_module, indices, keep_vector
from jstc.channels.groups import Connected, Structure
from jstc.channels.replay import Failure, Replay
from jstc.channels.trace.ids import FIRST_FREE, Ids, named_modules
from jstc.channels.trace.state import TraceState
from jstc.channels.trace.tracer import Program, run
from jstc.plan import Plan

__all__ = ["Proved", "prove"]

_FEW = 4
"""Channels of the widest groups that are also tried one channel narrower while others of that width stay."""
_TRIES = 48
"""Trials of a whole proof; after them nothing is offered."""
_TRIES_ALONE = 12
"""Trials of one group alone, in a whole proof, to tell the one at fault from those that only meet it."""
_ONE_BY_ONE = 16
"""Trials that believe one failure of a module at a time; after them it is twice as many in each."""


@dataclass(frozen=True)
class Proved:
    """The structure in which any cut is valid, and the attributes that follow a cut."""

    structure: Structure
    attributes: tuple[Sized, ...]
    stuck: frozenset[str] = frozenset()  # modules whose operations failed until some groups were frozen


def prove(
    model: nn.Module,
    program: Program,
    connected: Connected,
    traced: TraceState,
) -> Proved:
    """The structure in which any cut is valid, as far as random cuts of all its groups can tell.

    `connected` holds the channels of the trace `traced`, which ran the uncut network.
    """
    proof = _Proof(model, program, connected, traced)
    proof.freeze(proof.straddling())
    for _ in range(_TRIES):
        failures = proof.trial() or proof.second_trial()
        if not failures:
            return proof.result()
        if not proof.learn(failures):
            break
    proof.freeze(dict.fromkeys(proof.names(), "cannot be cut: every cut that was tried failed"))
    return proof.result()


class _Proof:
    """Findings so far: frozen atoms with reasons, attributes that follow, attributes given up."""

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        connected: Connected,
        traced: TraceState,
    ) -> None:
        self._model, self._program, self._connected, self._traced = model, program, connected, traced
        self._modules = dict(named_modules(model))
        self._frozen: dict[int, str] = {}
        self._following: dict[str, Sized] = {s.key: s for s in sized_norms(traced, self._modules)}
        self._given_up: set[tuple[str, bytes]] = set()
        self._counts: Mapping[str, int] | None = None  # of the newest trial of all groups
        self._scaled: dict[str, list[Ids]] = {}
        self._stuck: set[str] = set()
        self._alone = 0
        self._turns = 0
        self._structure = connected.structure(self._frozen)

    def result(self) -> Proved:
        for module, met in self._scaled.items():
            own = [sized.ids for sized in self._following.values() if sized.module == module]
            for ids in own or met:
                self._traced.record.inexact.append((ids, "a factor hangs on the number of channels"))
        return Proved(self._structure, tuple(self._following.values()), frozenset(self._stuck))

    def names(self) -> list[str]:
        return [group.name for group in self._structure.groups]

    def straddling(self) -> dict[str, str]:
        """Groups on both sides of a border: which of their channels are taken depends on which are kept."""
        found: dict[str, str] = {}
        for inside, outside in self._sides():
            for name in inside.keys() & outside.keys():
                if inside[name] != outside[name]:
                    found[name] = "cannot be cut: some channels of the group are taken by their numbers"
        return found

    def second_trial(self) -> list[Failure]:
        """Failures of extreme cuts, where one ordinary cut may not tell."""
        for counts in (*self._at_borders(), *self._of_few()):
            failures = self.trial(counts=counts)
            if failures:
                return failures
        return []

    def _at_borders(self) -> Iterator[dict[str, int]]:
        """Cuts of all on one side of a border: at a share of the width it may stay in place by chance.

        What has the same share on both sides may be wide or narrow meanwhile.
        """
        first: dict[str, bool] = {}
        even: set[str] = set()
        for shares in self._shares():
            if any(shares.values()):
                first = {name: share > 0 for name, share in shares.items() if share} | first
                even |= {name for name, share in shares.items() if not share}
        widths = {group.name: group.width for group in self._structure.groups}
        for high in (True, False) if first else ():
            for wide in (True, False) if even - first.keys() else (True,):
                counts = {name: widths[name] if wide else 1 for name in even}
                yield counts | {name: widths[name] if first[name] is high else 1 for name in first}

    def _shares(self) -> Iterator[dict[str, int]]:
        """For each border and group: is more (above zero) or less of it inside than of all channels?"""
        for whole, part in self._traced.record.borders:
            inside, all_ = self._structure.number(part), self._structure.number(whole)
            found = {}
            for group in self._structure.groups:
                own = [((n >= group.start) & (n < group.start + group.width)).sum() for n in (inside, all_)]
                if own[1]:
                    found[group.name] = int(own[0]) * len(whole) - int(own[1]) * len(part)
            yield found

    def _of_few(self) -> Iterator[dict[str, int]]:
        """Cuts of some groups of few channels: two heads are cut to one whatever the number of others is."""
        few: dict[int, list[str]] = {}
        for group in self._structure.groups:
            if group.width <= _FEW:
                few.setdefault(group.width, []).append(group.name)
        most = max((len(names) for names in few.values()), default=0)
        for bit in range((most - 1).bit_length() if most > 1 else 0):  # each pair differs in one of these
            yield {n: w if i >> bit & 1 else w - 1 for w, names in few.items() for i, n in enumerate(names)}

    def _sides(self) -> Iterator[tuple[dict[str, frozenset[int]], dict[str, frozenset[int]]]]:
        """For each border the groups inside and outside of it, with their channels there."""
        for whole, part in self._traced.record.borders:
            inside = np.unique(self._structure.number(part))
            outside = np.unique(self._structure.number(_without(whole, part)))
            yield self._by_group(inside), self._by_group(outside)

    def _by_group(self, numbers: Ids) -> dict[str, frozenset[int]]:
        found: dict[str, frozenset[int]] = {}
        for group in self._structure.groups:
            own = numbers[(numbers >= group.start) & (numbers < group.start + group.width)]
            if len(own):
                found[group.name] = frozenset(own.tolist())
        return found

    def trial(self, only: set[str] | None = None, counts: Mapping[str, int] | None = None) -> list[Failure]:
        """Failures when all groups (or those in `only`) are cut, some of them to given widths."""
        structure = self._structure
        if only is None:
            self._counts = counts
            self._scaled = self._scaled if counts else {}
        plan = trial_plan(structure, only, counts or {})
        keep = keep_vector(structure, plan)
        attributes = values(self._following.values(), structure, keep)
        small = cut_module(self._model, indices(structure, plan), attributes)
        replay = Replay(small, structure, keep, self._traced)
        try:
            run(small, self._program, replay)
        except Exception as error:
            replay.crashed(error)
        self._scaled.update(replay.scaled)
        return replay.failures

    def learn(self, failures: Sequence[Failure]) -> bool:
        """Let attributes follow where that may help, and freeze the channels of the other failures.

        Returns whether anything is to be tried anew.
        """
        self._turns += 1
        known = (self._structure.total, len(self._following), len(self._given_up))
        found: dict[str, str] = {}
        fresh: dict[str, Sized] = {}
        ties: list[tuple[Ids, Ids]] = []
        left: dict[str, list[Failure]] = {}
        for module, own in _by_module(failures).items():
            # An attribute of the size of several dimensions is the first one's, until that does not help.
            new = [sized for failure in own for sized in self._attributes(failure)]
            for sized in new:
                fresh.setdefault(sized.key, sized)
            if not new:
                left[module] = own
        at_fault = self._at_fault(left)
        for own in (own for module, own in left.items() if module not in at_fault):
            # What fails later in the same module may have failed for the same reason: the next trial tells.
            # After many trials it is rather a long forward in one module, and each is taken for its own.
            for failure in own[: max(1, 2 ** (self._turns - _ONE_BY_ONE))]:
                tied = self._one_to_one(failure.ties, many=failure.module in self._traced.narrow)
                ties += tied
                if not tied:
                    self._stuck.add(failure.module)
                    found.update(self._to_freeze(failure, found))
        for attributes in at_fault.values():
            self._give_up(attributes)
        self._following.update(fresh)
        self.freeze(found)
        self._tie(ties)
        return known != (self._structure.total, len(self._following), len(self._given_up))

    def _give_up(self, attributes: Sequence[Sized]) -> None:
        for sized in attributes:
            del self._following[sized.key]
            self._given_up.add(_identity(sized))

    def _one_to_one(self, ties: Sequence[tuple[Ids, Ids]], *, many: bool) -> list[tuple[Ids, Ids]]:
        """Those ties that join each channel with one other: they leave as many to choose from.

        With `many` to one they leave as many as the fewer were, such as the widths of heads.
        """
        found, atoms = [], self._connected.atoms
        for a, b in ties:
            sides = np.stack((atoms[a], atoms[b]))
            pairs, left, right = (len(np.unique(x, axis=-1).T) for x in (sides, *sides))
            if pairs == (max if many else min)(left, right) and (sides[0] != sides[1]).any():
                found.append((a, b))
        return found

    def _tie(self, ties: Sequence[tuple[Ids, Ids]]) -> None:
        """Channels that the forward gives one size are one from now on."""
        if ties:
            self._connected = self._connected.tied(ties)
            atoms = self._connected.atoms
            self._frozen = {int(atoms[atom]): reason for atom, reason in self._frozen.items()}
            self._structure = self._connected.structure(self._frozen)

    def _attributes(self, failure: Failure) -> list[Sized]:
        module = self._modules.get(failure.module)
        if module is None:
            return []
        found = sized_attributes(module, failure.module, failure.sizes, failure.results)
        return [s for s in found if s.key not in self._following and _identity(s) not in self._given_up]

    def _at_fault(self, left: Mapping[str, Sequence[Failure]]) -> dict[str, list[Sized]]:
        """For each module the attributes that make its first failure: it is gone where they need not follow.

        What a literal makes fail stays, and other attributes of the module are none the worse for it.
        """
        own = {m: [s for s in self._following.values() if s.module == m and self._of(s)] for m in left}
        found: dict[str, list[Sized]] = {}
        for turn in range(max(map(len, own.values()), default=0)):  # one attribute of each module at a time
            tried = {module: following[turn] for module, following in own.items() if turn < len(following)}
            whole = {name for sized in tried.values() for name in self._of(sized)}
            still = self._failing(whole)
            for module, sized in tried.items():
                mine, first = set(self._of(sized)), left[module][0]
                # Whole for another module may be what this one would fail for.
                gone = _place(first) not in still
                if gone and (whole - mine) & self._met(first):
                    gone = _place(first) not in self._failing(mine)
                if gone:
                    found.setdefault(module, []).append(sized)
        return found

    def _failing(self, whole: set[str]) -> set[tuple[str, int]]:
        """Where a trial fails in which the groups called `whole` are not cut."""
        return {_place(failure) for failure in self.trial(set(self.names()) - whole, self._counts)}

    def _met(self, failure: Failure) -> set[str]:
        """Groups that an operation meets, or takes a size from."""
        return set(
            _groups_of(self._structure, [*failure.suspects, *(ids for tie in failure.ties for ids in tie)])
        )

    def _of(self, sized: Sized) -> tuple[str, ...]:
        return _groups_of(self._structure, (sized.ids,))

    def freeze(self, reasons: dict[str, str]) -> None:
        """Freeze groups given with reasons."""
        for name, reason in reasons.items():
            self._frozen.update(dict.fromkeys(_atoms(self._structure, name), reason))
        self._structure = self._connected.structure(self._frozen)

    def _to_freeze(self, failure: Failure, known: dict[str, str]) -> dict[str, str]:
        """Groups to freeze: the suspects, without those that only meet the one at fault.

        Groups that meet it are not to suffer for it, so of several each is tried alone while tries are left.
        """
        suspects = _groups_of(self._structure, failure.suspects)
        if any(name in known for name in suspects):
            return {}  # frozen for an earlier failure, which may have been the cause of this one
        among = suspects or self._inside(failure.module) or tuple(self.names())
        if len(among) > 1 and self._alone + len(among) <= _TRIES_ALONE:
            self._alone += len(among)
            alone = tuple(name for name in among if self.trial({name}))
            among = alone or among
        return dict.fromkeys(among, failure.reason)

    def _inside(self, module: str) -> tuple[str, ...]:
        """Groups with a layer in a module."""
        groups = self._structure.groups
        return tuple(g.name for g in groups if any(f"{x}.".startswith(f"{module}.") for x in g.layers))


def _identity(sized: Sized) -> tuple[str, bytes]:
    return sized.key, sized.ids.tobytes()


def _place(failure: Failure) -> tuple[str, int]:
    return failure.module, failure.operation


def _by_module(failures: Sequence[Failure]) -> dict[str, list[Failure]]:
    found: dict[str, list[Failure]] = {}
    for failure in failures:
        found.setdefault(failure.module, []).append(failure)
    return found


def _atoms(structure: Structure, name: str) -> list[int]:
    group = next(g for g in structure.groups if g.name == name)
    numbers = np.arange(group.start, group.start + group.width)
    return np.flatnonzero(np.isin(structure.number_of_atom, numbers)).tolist()


def trial_plan(
    structure: Structure, only: set[str] | None = None, given: Mapping[str, int] | None = None
) -> Plan:
    """A plan that cuts every group (or those in `only`) at places that no contiguous slice would hit.

    `given` are widths of some groups.
    """
    kept: dict[str, tuple[int, ...]] = {}
    last: dict[tuple[int, int], int] = {}
    random = np.random.default_rng(0)
    for group in structure.groups:
        # An odd number, because sizes written into a forward are mostly even and might divide an even one;
        # not one if possible, because nobody can tell such a dimension from others of size one in a view.
        # And another for each group of one width, because what only fits if both are cut alike must not pass.
        draws = [_count(group.width, random.uniform(0.35, 0.85)) for _ in range(4)]
        count = min(draws, key=partial(_used, last, group.width))
        last[group.width, count] = group.start
        count = (given or {}).get(group.name, count)
        # Cut as it would be among all, so that one trial can be compared with another.
        cut = tuple(sorted(random.permutation(group.width)[:count].tolist()))
        kept[group.name] = cut if only is None or group.name in only else tuple(range(group.width))
    return Plan(kept, {group.name: group.width for group in structure.groups})


def _used(last: Mapping[tuple[int, int], int], width: int, count: int) -> int:
    return last.get((width, count), -1)


def _without(whole: Ids, part: Ids) -> Ids:
    """The ids of a dimension that a part leaves; equal ids are taken one by one."""
    left, taken = np.unique(whole, return_counts=True)
    mine, times = np.unique(part, return_counts=True)
    taken[np.searchsorted(left, mine)] -= times
    return left[taken > 0]


def _count(width: int, share: float) -> int:
    return min(max(int(width * share) // 2 * 2 + 1, 3), width - 1)


def _groups_of(structure: Structure, suspects: Sequence[Ids]) -> tuple[str, ...]:
    """All groups that the suspects belong to: alike channels fail alike."""
    met = np.unique(np.concatenate([*suspects, np.zeros(0, np.int64)]))
    numbers = structure.number(met[met >= FIRST_FREE])
    return tuple(
        g.name for g in structure.groups if ((numbers >= g.start) & (numbers < g.start + g.width)).any()
    )
