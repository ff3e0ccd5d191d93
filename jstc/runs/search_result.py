"""What `jstc.search` gives: the smaller network, with what can be done next with the run that it left."""

from __future__ import annotations

import contextlib
import html
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from jstc import slim
from jstc.core import files, numbers, processes, progress_view
from jstc.core.accuracy import Accuracy
from jstc.core.progress import Progress
from jstc.errors import Interrupted, StageError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs import commands, directory
from jstc.runs.given import GivenWorkspace

__all__ = ["Report", "SearchResult", "SearchResults", "command", "interruptions", "results", "shown"]

Settings = Mapping[str, Any] | Sequence[str]

_MOST_BYTES = 64 * 2**20  # of a page, which has a few


@dataclass(frozen=True)
class Report:
    """The page report.html of a run; a notebook shows it."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        page = html.escape(files.read_text(self.path, limit=_MOST_BYTES))
        return f'<iframe sandbox srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


@dataclass(frozen=True, repr=False, eq=False)
class SearchResult:
    """The smaller network, trained, and its figures beside those of the network that was given.

    `accuracy` is a fraction of `test_images` images, and `given_accuracy` that of the given network, None
    where it was untrained. FLOPs are for one image, and count one multiply-add as one. `path` is the run
    directory.
    """

    network: nn.Module
    plan: Plan
    accuracy: float
    flops: int
    params: int
    path: Path
    test_images: int
    given_flops: int
    given_params: int
    given_accuracy: float | None
    _workspace: GivenWorkspace = field(repr=False)
    _progress: bool | Progress = field(repr=False)

    def export(
        self,
        directory: str | Path | None = None,
        *,
        precisions: Sequence[str] | None = None,
        settings: Settings = (),
    ) -> list[Path]:
        """Write the network as ONNX, verify each file on the data, and give the paths of the files.

        They are in `path`/export, with a model card, the labels and a script that uses them; `directory` gets
        a copy of all. `precisions`: of "fp32", "fp16", "int8"; left out: as before, at first fp32. `settings`
        are keys such as "export.opset=20". Raises `GateError` for a precision that loses too much accuracy.
        """
        named = None if precisions is None else [precisions] if isinstance(precisions, str) else [*precisions]
        self._run("export", settings, {"export.precisions": named})
        found = files.read_json(self.path / "export" / "result.json")["files"]
        paths = [self.path / entry["file"] for entry in found]
        if directory is None:
            return paths
        shutil.copytree(
            self.path / "export", directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("result.json")
        )
        return [Path(directory) / path.name for path in paths]

    def bench(self, *, settings: Settings = ()) -> list[dict[str, Any]]:
        """Time the exported files beside the given network in onnxruntime; export runs first where need be.

        Gives a row for each file, provider and batch size, with milliseconds and `speedup_vs_target`.
        """
        self._run("bench", settings, {})
        rows: list[dict[str, Any]] = files.read_json(self.path / "bench" / "bench.json")["rows"]
        return rows

    def report(self) -> Report:
        """Write report.html on the run, as far as it has come; a notebook shows it."""
        return _report(self.path)

    def _run(self, stage: str, settings: Settings, changes: Mapping[str, object]) -> None:
        if processes.follows():
            raise StageError(f"{stage} is the work of process 0: call it there alone")
        stored = directory.read_recipe(self.path)
        own = {"model": stored.model, "dataset": stored.dataset}
        recipe = loading.from_python(stored, settings, {**changes, **own})
        workspace = self._workspace.with_recipe(recipe)
        with shown(self._progress) as told, interruptions():
            commands.run_stage(
                self.path,
                stage,
                recipe=recipe,
                workspace=workspace,
                command=command(self.path),
                progress=told,
            )

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """Names of figures, each with that of the given network, of this one, and how the two compare."""
        before = None if self.given_accuracy is None else Accuracy(self.given_accuracy, self.test_images)
        points = "" if before is None else f"{100 * (self.accuracy - before.value):+.1f} points"
        return [
            ("FLOPs", *_compared(self.given_flops, self.flops)),
            ("parameters", *_compared(self.given_params, self.params)),
            ("accuracy", "untrained" if before is None else before.text, self._accuracy.text, points),
        ]

    @property
    def _accuracy(self) -> Accuracy:
        return Accuracy(self.accuracy, self.test_images)

    def __repr__(self) -> str:
        said = [f"{numbers.count(self.flops)} FLOPs", f"{numbers.count(self.params)} parameters"]
        return f"SearchResult({', '.join(said)}, accuracy {self._accuracy.text}, {str(self.path)!r})"

    def _repr_html_(self) -> str:
        return _table(
            ["", "given network", "smaller network", ""],
            self._rows(),
            f"accuracies on {self.test_images:,} images; the run is in {self.path}",
        )


class SearchResults(Mapping[str, SearchResult]):
    """The results of one search at several budgets, by their labels, such as "flops0.5".

    `path` is the run directory; each result has its own in it.
    """

    def __init__(self, results: Mapping[str, SearchResult], path: Path) -> None:
        self._results, self.path = dict(results), path

    def __getitem__(self, label: str) -> SearchResult:
        return self._results[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def report(self) -> Report:
        """Write report.html on all budgets side by side, as far as they have come; a notebook shows it."""
        return _report(self.path)

    def __repr__(self) -> str:
        lines = "".join(f"  {label}: {result!r}\n" for label, result in self.items())
        return f"SearchResults(\n{lines})"

    def _repr_html_(self) -> str:
        rows = []
        for label, result in self.items():
            flops, params, accuracy = result._rows()
            rows.append((label, f"{flops[2]} ({flops[3]})", f"{params[2]} ({params[3]})", accuracy[2]))
        first = next(iter(self.values()))
        return _table(
            ["budget", "FLOPs", "parameters", "accuracy"],
            [("given network", *(row[1] for row in first._rows())), *rows],
            f"accuracies on {first.test_images:,} images; the run is in {self.path}",
        )


def results(path: Path, workspace: GivenWorkspace, progress: bool | Progress) -> SearchResult | SearchResults:
    """What the run at `path` has found: one result, or one for each budget."""
    labels = workspace.recipe.labels
    if len(labels) == 1:
        return _result(path, workspace, progress)
    return SearchResults({label: _result(path / label, workspace, progress) for label in labels}, path)


def _result(path: Path, workspace: GivenWorkspace, progress: bool | Progress) -> SearchResult:
    result, target = files.read_json(path / "slim" / "result.json"), files.read_json(path / "target.json")
    plan = Plan.load(path / "search" / "plan.json")
    given = path / "given" / "result.json"
    return SearchResult(
        network=slim.load(path / "slim", target=workspace.structure(), plan=plan),
        plan=plan,
        accuracy=result["accuracy"],
        flops=result["flops"],
        params=result["params"],
        path=path,
        test_images=result["test_images"],
        given_flops=target["flops"],
        given_params=target["params"],
        given_accuracy=files.read_json(given)["accuracy"] if given.is_file() else None,
        _workspace=workspace,
        _progress=progress,
    )


def _report(path: Path) -> Report:
    from jstc import report as reporting  # with matplotlib

    commands.write_report(path)
    page = path / "report.html"
    if not page.is_file():
        files.write_text(page, reporting.html(reporting.read(path)))
    return Report(page)


def _compared(before: int, after: int) -> tuple[str, str, str]:
    return numbers.count(before), numbers.count(after), f"{100 * after / before:.1f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], foot: str) -> str:
    """A small table of HTML, without scripts; every text is escaped."""

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
        f"<div><small>{html.escape(foot)}</small></div>"
    )


# Around what is done.


def command(path: Path) -> str:
    """How the run at `path` is gone on with, in words."""
    return f"jstc.search(..., out={str(path)!r})"


@contextlib.contextmanager
def shown(progress: bool | Progress | None) -> Iterator[Progress]:
    """Whom to tell in the block: the user's own, or what suits the screen; nobody for False."""
    if not isinstance(progress, bool) and progress is not None:
        yield progress
        return
    with progress_view.shown(quiet=progress is False or processes.follows(), verbose=False) as told:
        yield told


@contextlib.contextmanager
def interruptions() -> Iterator[None]:
    """A block whose interruption is a KeyboardInterrupt, as Python's own, that says how to go on."""
    try:
        yield
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from None
