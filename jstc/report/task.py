"""The report of a `JointSearch`, from the files of its folder: any network, and a score of the user's own.

There is no accuracy in it, for nobody here knows what the score is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jstc.core.numbers import UNKNOWN, count, duration, ratio, share
from jstc.errors import RunDirectoryError
from jstc.report.page import figure
from jstc.report.plots.canvas import Drawing
from jstc.report.plots.search import draw_candidates, draw_depths, draw_scores
from jstc.report.rendering import render
from jstc.report.search import Candidate, SearchView, read_candidates, view
from jstc.report.stage_files import Json, known, number, read_history, read_json
from jstc.summary import Training

__all__ = ["TaskData", "draw_task", "is_task", "read_task", "task_html", "task_markdown", "task_table"]


class Width(NamedTuple):
    """A group of channels: its width, and how many the plan keeps, None before there is one."""

    name: str
    width: int
    kept: int | None


class _Searched(NamedTuple):
    search: Training
    groups: Sequence[Width]


@dataclass(frozen=True)
class TaskData:
    """A search as far as it has come; `result` is empty before its end, `rounds` are lines of its history."""

    about: Json
    result: Json
    rounds: Sequence[Json]
    candidates: Sequence[Candidate]
    groups: Sequence[Width]
    search: Training

    @property
    def summary(self) -> _Searched:
        """What pictures of a search look at."""
        return _Searched(self.search, self.groups)

    @property
    def title(self) -> str:
        """`UNet at 49.6 % of its FLOPs`."""
        name = str(self.about.get("class", "network"))
        flops, whole = self.result.get("flops"), self.about.get("flops")
        return f"{name} at {share(flops, whole)} of its FLOPs" if flops and whole else f"{name}, searched"

    def to_dict(self) -> dict[str, Any]:
        """JSON document."""
        return {"network": self.about, "result": self.result, "rounds": list(self.rounds)}


def is_task(folder: Path) -> bool:
    """Whether it is the folder of a `JointSearch`."""
    return (folder / "search.json").is_file() and not (folder / "recipe.yaml").exists()


def read_task(folder: Path) -> TaskData:
    """The search in `folder`, finished or not. Raises `RunDirectoryError` when a file is damaged."""
    about, result = read_json(folder, "search.json"), read_json(folder, "result.json")
    widths, counts = about.get("widths"), result.get("counts", {})
    if not isinstance(widths, dict) or not isinstance(counts, dict):
        raise RunDirectoryError(f"{folder / 'search.json'} is damaged: it has no widths")
    groups = [Width(name, width, counts.get(name)) for name, width in widths.items()]
    lines = read_history(folder / "candidates.jsonl")
    found = result or read_json(folder, "widths.json")
    return TaskData(
        about,
        result,
        read_history(folder / "history.jsonl"),
        read_candidates(lines, "", [each.width for each in groups]),
        groups,
        Training.model_validate(known(found, "candidates", "contributions")),
    )


def draw_task(data: TaskData) -> list[Drawing]:
    """Pictures of the search; what it does not have is not drawn."""
    scores = [number(line, "score") for line in data.rounds]
    overlaps = [number(line, "overlap") for line in data.rounds]
    num_coarse = sum(line.get("phase") == "coarse" for line in data.rounds)
    drawn = [draw_candidates(data), draw_depths(data), draw_scores(scores, overlaps, num_coarse)]
    return [each for each in drawn if each is not None]


def task_table(data: TaskData) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the whole network beside the slim one."""
    whole, slim = data.about, data.result
    rows = [
        [label, count(whole.get(key)), count(slim.get(key)), _times(whole.get(key), slim.get(key))]
        for label, key in (("FLOPs", "flops"), ("parameters", "params"))
    ]
    if "latency_ms" in slim:
        rows.append(["latency", UNKNOWN, f"{slim['latency_ms']:.3g} ms", ""])
    rows.append(["score", _score(slim.get("whole_score"), ""), _score(slim.get("score")), ""])
    rows.append(["rounds", "", str(len(data.rounds)), _seconds(slim)])
    return [str(whole.get("class", "network")), "whole", "slim", ""], rows


def _times(whole: Any, slim: Any) -> str:
    return f"{ratio(whole / slim)} fewer" if whole and slim else ""


def _score(value: Any, unknown: str = UNKNOWN) -> str:
    return unknown if not isinstance(value, int | float) else f"{value + 0.0:.5g}"  # -0 is 0


def _seconds(result: Mapping[str, Any]) -> str:
    seconds = result.get("seconds")
    return f"in {duration(seconds)}" if seconds else ""


def _search(data: TaskData) -> SearchView | None:
    found = view({"": (data.search, data.candidates, True)})
    if found is None:
        return None
    # Nobody scored these plans: the column of accuracies is empty.
    texts = [(label, _of_batches(text)) for label, text in found.texts]
    at = found.header.index("accuracy") if "accuracy" in found.header else None
    rows = [[cell for place, cell in enumerate(row) if place != at] for row in found.rows]
    return SearchView(texts, [name for name in found.header if name != "accuracy"], rows)


def _of_batches(text: str) -> str:
    """Sentences on a search with images, as sentences on one with batches of anything."""
    text = text.replace("images of the search-validation split", "examples, every second batch")
    return text.replace("on the first images", "on the first examples")


def _content(data: TaskData) -> dict[str, Any]:
    header, rows = task_table(data)
    judged = [number(line, "score") for line in data.rounds]
    best = max((s for s in judged if not math.isnan(s)), default=None)
    budget = ", ".join(f"{name} {bound}" for name, bound in dict(data.about.get("budget", {})).items())
    return {
        "title": data.title,
        "header": header,
        "rows": rows,
        "budget": budget,
        "search": _search(data),
        "groups": data.groups,
        "finished": bool(data.result),
        "best": _score(best),
        "rounds": len(data.rounds),
    }


def task_markdown(data: TaskData) -> str:
    """The report as Markdown, without pictures."""
    return render("task.md.j2", **_content(data))


def task_html(data: TaskData) -> str:
    """The report as one HTML page."""
    pictures = [figure(each) for each in draw_task(data)]
    return render("page/task.html.j2", **_content(data), pictures=pictures)
