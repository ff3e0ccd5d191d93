"""A search as it went: its rounds, plans that it judged without training them, and what is said of these.

A plan is judged by the loss of the network that it cuts out of the trained one, on images that are the same
for all plans of a search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jstc.core.numbers import UNKNOWN, count, duration, percent
from jstc.report.stage_files import Json, known, number
from jstc.summary import Contribution, Training

__all__ = [
    "Candidate",
    "Round",
    "SearchView",
    "best_of",
    "brief",
    "loss_text",
    "read_candidates",
    "read_rounds",
    "told",
    "view",
]


@dataclass(frozen=True)
class Round:
    """A round of the search, as far as its line says; figures that it lacks are not numbers."""

    number: int
    train_accuracy: float
    accuracy: float
    lr: float
    overlap: float
    alpha_spread: float
    coarse: bool


@dataclass(frozen=True)
class Candidate:
    """A plan that was judged without training; its loss is not a number where that ended early.

    `shares` are the kept parts of the groups' widths, in the order of the network. `images` are those that it
    was judged on, 0 where that is not known.
    """

    generation: int
    coarse: bool
    loss: float
    accuracy: float
    shares: tuple[float, ...]
    images: int
    seconds: float

    @property
    def hopeless(self) -> bool:
        """Whether it was given up before all images were seen."""
        return math.isnan(self.loss)


def read_rounds(history: Sequence[Json], label: str) -> list[Round]:
    """The rounds of the budget `label`, numbered from 1 among all."""
    return [
        Round(
            number=place,
            train_accuracy=number(line, "train_accuracy"),
            accuracy=number(line, "accuracy"),
            lr=number(line, "lr"),
            overlap=number(line, "overlap"),
            alpha_spread=number(line, "alpha_spread"),
            coarse=line.get("phase") == "coarse",
        )
        for place, line in _own(history, label)
    ]


def read_candidates(lines: Sequence[Json], label: str, widths: Sequence[int]) -> list[Candidate]:
    """The candidates of the budget `label`, in the order of their judgement; `widths` are the groups'."""
    return [
        Candidate(
            generation=int(_count(line, "generation")),
            coarse=line.get("phase") == "coarse",
            loss=number(line, "loss"),
            accuracy=number(line, "accuracy"),
            shares=_shares(line.get("counts"), widths),
            images=int(_count(line, "images")),
            seconds=_count(line, "seconds"),
        )
        for _, line in _own(lines, label)
    ]


def _own(lines: Sequence[Json], label: str) -> list[tuple[int, Json]]:
    """The lines of one budget with their numbers, which are all unless there are several budgets."""
    numbered = list(enumerate(lines, 1))
    return [(place, line) for place, line in numbered if line.get("budget") == label] or numbered


def _count(line: Json, key: str) -> float:
    found = number(line, key)
    return 0.0 if math.isnan(found) else found


def _shares(counts: object, widths: Sequence[int]) -> tuple[float, ...]:
    """Kept parts of the widths; none where a line does not have one count for each group."""
    if not isinstance(counts, list) or len(counts) != len(widths) or not all(widths):
        return ()
    if not all(isinstance(count, int) for count in counts):
        return ()
    return tuple(count / width for count, width in zip(counts, widths, strict=True))


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate with the lowest loss, the first of equals; None where none was judged to the end."""
    judged = [one for one in candidates if not one.hopeless]
    return min(judged, key=lambda one: one.loss, default=None)


# --- in words ---------------------------------------------------------------------------------------------


def told(search: Training, candidates: Sequence[Candidate], mended: bool, *, again: bool = False) -> str:
    """The search over widths in a few sentences; nothing where no plan was judged without training.

    `mended`: whether layers were fitted after the cut. `again`: how plans are judged has been said before.
    """
    counted = search.candidates
    judged = counted.judged if counted is not None else len(candidates)
    if not judged:
        return ""
    seconds = counted.seconds if counted is not None else sum(one.seconds for one in candidates)
    first = ("1 plan was" if judged == 1 else f"{judged:,} plans were") + " judged"
    first += " so far" if counted is None else ""
    first += f" in {duration(seconds)}" if seconds else ""
    early = sum(one.hopeless for one in candidates)
    sentences = [first + ("." if again else f", without any training: {_how(candidates, mended)}.")]
    if early and not again:
        sentences.append(f"{early:,} of them ended early: on the first images they were worse than most.")
    return " ".join([*sentences, *_outcome(search.contributions, candidates)])


def _how(candidates: Sequence[Candidate], mended: bool) -> str:
    images = max((one.images for one in candidates), default=0)
    which = f"the same {images:,} images" if images else "images"
    then = ", mended and tried" if mended else " and tried"
    return f"each was cut out of the given network{then} on {which} of the search-validation split"


def _outcome(parts: Sequence[Contribution], candidates: Sequence[Candidate]) -> list[str]:
    if not parts:
        best = best_of(candidates)
        return [] if best is None else [f"The best one has a loss of {loss_text(best.loss)}."]
    even, found = parts[0], parts[-1]
    if even.loss is None or found.loss is None:
        return []
    evenly = "the evenly narrow one, which keeps about the same share of every group,"
    told = f"The plan found has a loss of {_judged(found)}, {evenly} {_judged(even)}; lower is better."
    return [told, "The search has found nothing better."] if found.loss >= even.loss else [told]


def _judged(part: Contribution) -> str:
    """`2.152 (46.10 % right)`."""
    right = f" ({percent(part.accuracy)} right)" if part.accuracy is not None else ""
    return loss_text(part.loss) + right


def loss_text(loss: float | None) -> str:
    """2.1518 -> `2.152`."""
    return UNKNOWN if loss is None or math.isnan(loss) else f"{loss:.3f}"


def brief(result: Json) -> list[tuple[str, str]]:
    """The search over widths in two lines of a table, from a search's `result`; none where it had none."""
    search = Training.model_validate(known(result, "candidates", "contributions"))
    rows = []
    if search.candidates is not None and search.candidates.judged:
        took = search.candidates.seconds
        text = f"{search.candidates.judged:,}" + (f" in {duration(took)}" if took is not None else "")
        rows.append(("plans judged without training", text))
    if len(search.contributions) > 1:
        even, found = search.contributions[0], search.contributions[-1]
        text = f"{loss_text(found.loss)} (evenly narrow: {loss_text(even.loss)})"
        rows.append(("loss of the plan found, untrained", text))
    return rows


# --- what each part added ---------------------------------------------------------------------------------


class SearchView(NamedTuple):
    """The search over widths in words, a text for each budget, and as a table of what each part added."""

    texts: list[tuple[str, str]]
    header: list[str]
    rows: list[list[str]]


def view(searches: Mapping[str, tuple[Training, Sequence[Candidate], bool]]) -> SearchView | None:
    """The searches by the label of their budget, empty for only one, as `told` takes them; None for none."""
    texts: list[tuple[str, str]] = []
    for label, one in searches.items():
        if text := told(*one, again=bool(texts)):
            texts.append((label, text))
    parts = {label: search.contributions for label, (search, *_) in searches.items() if search.contributions}
    if not texts and not parts:
        return None
    if [*parts] == [""]:
        return SearchView(texts, ["plan with", "loss", "change", "accuracy", "params"], _steps(parts[""]))
    names = dict.fromkeys(part.part for own in parts.values() for part in own)
    found = {label: {part.part: part for part in own} for label, own in parts.items()}
    rows = [[name, *(_cell(own.get(name)) for own in found.values())] for name in names]
    return SearchView(texts, ["plan with", *(f"{label}: loss (accuracy)" for label in found)], rows)


def _steps(parts: Sequence[Contribution]) -> list[list[str]]:
    """A row for each part; the change is from the row before."""
    before: list[float | None] = [None, *(part.loss for part in parts)]
    return [
        [
            part.part,
            loss_text(part.loss),
            _change(part.loss, last),
            percent(part.accuracy),
            count(part.params),
        ]
        for part, last in zip(parts, before, strict=False)
    ]


def _change(loss: float | None, before: float | None) -> str:
    if loss is None or before is None:
        return UNKNOWN
    change = round(loss - before, 3)
    return f"{change:+.3f}" if change else "0"


def _cell(part: Contribution | None) -> str:
    return UNKNOWN if part is None else f"{loss_text(part.loss)} ({percent(part.accuracy)})"
