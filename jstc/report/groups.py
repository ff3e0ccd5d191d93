"""Channel groups as rows of a table or a picture: names that are alike as one pattern, widths and FLOPs.

`blocks.0.attn.qkv` to `blocks.11.attn.qkv` are `blocks.*.attn.qkv`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from jstc.core.numbers import share
from jstc.summary import Costs, GroupWidth, Network

__all__ = ["MOST_ROWS", "NamePattern", "WidthRow", "WidthRows", "by_reason", "group_names", "width_rows"]

# --- names ------------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"(\d+)")
_LEAST_POSITIONS = 4  # the places in a plain sequence (`features.3`) are parts of their own if they are few


@dataclass(frozen=True)
class NamePattern:
    """Names that differ in numbers only: their pattern, and their places in the list given."""

    pattern: str
    members: tuple[int, ...]


def group_names(
    names: Sequence[str], keys: Sequence[Hashable] | None = None, *, enough: int = 1
) -> list[NamePattern]:
    """Names that differ in the number of a block become one pattern, at the place of the first.

    Numbers are taken from right to left, blocks before stages, until no more than `enough` patterns are left.
    Only names with equal `keys` are taken together. The number at the end of a name (`conv1`, `conv2`) tells
    parts of one block from each other and stays, as does every number in which no two names differ.
    """
    split = [_DIGITS.split(name) for name in names]
    keys = keys if keys is not None else [None] * len(names)
    found = _patterns(split, keys)
    for from_the_right in range(2, max(map(len, split), default=0), 2):
        if len(found) <= enough:
            break
        _star(split, keys, from_the_right)
        found = _patterns(split, keys)
    return found


def _patterns(split: Sequence[Sequence[str]], keys: Sequence[Hashable]) -> list[NamePattern]:
    found: dict[tuple[str, Hashable], list[int]] = {}
    for index, parts in enumerate(split):
        found.setdefault(("".join(parts), keys[index]), []).append(index)
    return [NamePattern(pattern, tuple(members)) for (pattern, _), members in found.items()]


def _star(split: list[list[str]], keys: Sequence[Hashable], from_the_right: int) -> None:
    """Replace one number of each name by `*` where names differ in it alone."""
    alike: dict[Hashable, list[int]] = {}
    for index, parts in enumerate(split):
        position = len(parts) - from_the_right
        if position > 0:
            rest = (*parts[:position], None, *parts[position + 1 :])
            alike.setdefault((rest, keys[index]), []).append(index)
    for members in alike.values():
        position = len(split[members[0]]) - from_the_right
        found = {int(split[index][position]) for index in members}
        # Two far apart, such as the first and the last of a sequence, are no repeated blocks.
        apart = len(found) == 2 and max(found) - min(found) > 1
        if len(found) >= _least(split[members[0]], position) and not apart:
            for index in members:
                split[index][position] = "*"


def _least(parts: Sequence[str], position: int) -> float:
    """How many numbers must differ at `position` before they are taken together."""
    if "." in "".join(parts[position + 1 :]):
        return 2
    alone = parts[position - 1].endswith(".") and not "".join(parts[position + 1 :])
    return _LEAST_POSITIONS if alone else float("inf")


def by_reason(reasons: Sequence[str]) -> list[list[int]]:
    """Places of reasons that are one, or differ in numbers only, taken together."""
    found: dict[str, list[int]] = {}
    for place, reason in enumerate(reasons):
        found.setdefault(re.sub(r"\d+", "0", reason), []).append(place)
    return list(found.values())


# --- rows -------------------------------------------------------------------------------------------------

MOST_ROWS = 24
_LONGEST = 30  # letters of a name


@dataclass(frozen=True)
class WidthRow:
    """A group, or several alike: widths, kept channels, and shares of the target network's FLOPs."""

    name: str
    widths: tuple[int, ...]
    kept: tuple[int, ...]
    before: float
    after: float | None

    @property
    def shares(self) -> list[float]:
        """Kept part of each group's width."""
        return [kept / width for kept, width in zip(self.kept, self.widths, strict=True)]

    @property
    def mean_share(self) -> float:
        """Mean over the groups."""
        return sum(self.shares) / len(self.shares)

    @property
    def stays(self) -> str:
        """`8 of 16`, with the range of several groups."""
        return f"{_range(self.kept)} of {_range(self.widths)}"

    @property
    def costs(self) -> str:
        """`31.0 → 20.0 %` of the target network's FLOPs, as far as it is known."""
        before = share(self.before, 1)
        return before if self.after is None else f"{100 * self.before:.1f} → {share(self.after, 1)}"


@dataclass(frozen=True)
class WidthRows:
    """Rows in the order of the network, of `groups`; `largest` is the largest share of FLOPs in a row."""

    rows: tuple[WidthRow, ...]
    groups: tuple[GroupWidth, ...]

    @property
    def largest(self) -> float:
        """The largest share of FLOPs, before or after the cut."""
        return max(max(row.before, row.after or 0.0) for row in self.rows) or 1.0

    @property
    def letters(self) -> tuple[int, int]:
        """Letters of the longest `stays` and `costs`, which set the widths of their columns."""
        return max(len(row.stays) for row in self.rows), max(len(row.costs) for row in self.rows)

    @property
    def numbered(self) -> bool:
        """Whether a layer makes the channels of several groups, which then have a number behind its name."""
        return any("#" in row.name for row in self.rows)

    @property
    def kept(self) -> int:
        """Channels that stay, of all groups together."""
        return sum(group.kept or 0 for group in self.groups)

    @property
    def width(self) -> int:
        """Channels of the target network, of all groups together."""
        return sum(group.width for group in self.groups)

    @property
    def joined(self) -> bool:
        """Whether some rows stand for several groups."""
        return len(self.rows) < len(self.groups)

    @property
    def after(self) -> bool:
        """Whether what the layers cost after the cut is known."""
        return any(row.after is not None for row in self.rows)


def width_rows(network: Network, target: Costs) -> WidthRows | None:
    """At most `MOST_ROWS` rows; groups whose names differ in numbers only share one, as far as needed.

    None without groups or without a plan.
    """
    groups = [group for group in network.groups if group.kept is not None and group.width]
    if not groups:
        return None
    # Shares of the slim network's FLOPs become shares of the target network's.
    scale = network.slim.flops / target.flops if network.slim.flops and target.flops else None
    sets = group_names([group.name for group in groups], enough=MOST_ROWS)
    rows = [_row(alike.pattern, [groups[index] for index in alike.members], scale) for alike in sets]
    if len(rows) > MOST_ROWS:
        # Names that no pattern joins: the rows that cost most stay, the rest is one row at the end.
        by_cost = sorted(range(len(rows)), key=lambda at: -rows[at].before * len(rows[at].widths))
        shown, rest = sorted(by_cost[: MOST_ROWS - 1]), by_cost[MOST_ROWS - 1 :]
        others = [groups[index] for at in sorted(rest) for index in sets[at].members]
        rows = [*(rows[at] for at in shown), _row("others", others, scale)]
    return WidthRows(tuple(rows), tuple(groups))


def _row(name: str, groups: Sequence[GroupWidth], scale: float | None) -> WidthRow:
    # The end of a name says which part of which block it is.
    short = name if len(name) <= _LONGEST else "…" + name[-_LONGEST + 1 :].lstrip(".")
    after = [group.flops_share_slim for group in groups if group.flops_share_slim is not None]
    known = scale is not None and len(after) == len(groups)
    return WidthRow(
        f"{short} ({len(groups)})" if len(groups) > 1 else short,
        tuple(group.width for group in groups),
        tuple(group.kept or 0 for group in groups),
        sum(group.flops_share for group in groups) / len(groups),
        sum(after) / len(after) * scale if known and scale is not None else None,
    )


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}\N{EN DASH}{high}"
