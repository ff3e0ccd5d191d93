"""Progress for people: a live line on a terminal, bars in a notebook's output, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import errno
import html
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from jstc.core.numbers import about, figure
from jstc.core.progress import LEFT_IN_ALL, Progress, Silent
from jstc.core.safe_text import visible

__all__ = ["NotebookProgress", "PlainLines", "RichProgress", "in_notebook", "shown"]

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_PICTURES = 0.3
_WORTH_A_WORD = 60.0  # seconds that are left
_WHOLE = "in all"
_FIGURES = ("accuracy", "loss", "flops")  # what fits on a line of 80 columns


@contextlib.contextmanager
def shown(*, quiet: bool, verbose: bool) -> Iterator[Progress]:
    """The `Progress` that suits the notebook, or stderr; gone, cursor restored, when the block is left."""
    if quiet:
        yield Silent()
        return
    if in_notebook():
        yield NotebookProgress(importlib.import_module("IPython.display").display)
        return
    console = Console(file=cast(IO[str], _Hearer(sys.stderr)), highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainLines(every=0.0 if verbose else _SECONDS_BETWEEN_LINES)
        return
    with _bars(console) as bars:
        progress = RichProgress(bars, verbose=verbose)
        try:
            yield progress
        finally:
            progress.end()


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """A block that writes to a terminal; where that has been closed, nobody is left to be told."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class _Hearer:
    """The stream of a terminal, to be written to also when that has been closed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, if anybody is there."""
        with _unless_gone():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is kept, if anybody is there."""
        with _unless_gone():
            self._stream.flush()


class PlainLines:
    """A line per step, at most one every `every` seconds; the first and the last step always."""

    def __init__(self, *, every: float = _SECONDS_BETWEEN_LINES) -> None:
        self._every = every
        self._stage, self._total, self._unit = "", 0, ""
        self._last = self._began = time.monotonic()
        self._first = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        """See `Progress`."""
        self._stage, self._total, self._unit = stage, total, unit
        self._began, self._last, self._first = time.monotonic(), -self._every, -1

    def update(self, done: int, **figures: float) -> None:
        """See `Progress`."""
        now = time.monotonic()
        self._first = done if self._first < 0 else self._first
        if done < self._total and now - self._last < self._every:
            return
        self._last = now
        text = f"{self._stage}: {self._unit} {done}/{self._total}{_as_text(figures, all_of_them=True)}"
        left = self._seconds_left(done, now)
        text += f"  {left:.0f} s left" if left else ""
        self._print(text + _in_all(figures))

    def message(self, text: str) -> None:
        """See `Progress`."""
        self._print(text)

    def finish(self) -> None:
        """See `Progress`."""

    def _seconds_left(self, done: int, now: float) -> float:
        # From the second step on: the first one seen may follow a resumption.
        steps = done - self._first
        return (now - self._began) / (steps + 1) * (self._total - done) if steps > 0 else 0.0

    def _print(self, text: str) -> None:
        with _unless_gone():
            print(visible(text), file=sys.stderr, flush=True)


class RichProgress:
    """A live bar for the work at hand; when it is done it goes up to the messages, in the order of time."""

    def __init__(self, bars: Bars, *, verbose: bool = False) -> None:
        self._bars, self._verbose = bars, verbose
        self._task: TaskID | None = None
        self._whole: TaskID | None = None
        self._began = time.monotonic()
        self._stage, self._unit = "", ""

    def start(self, stage: str, total: int, unit: str) -> None:
        """See `Progress`."""
        self.finish()
        self._stage, self._unit = stage, unit
        self._task = self._bars.add_task(stage, total=total, unit=unit, figures="")

    def update(self, done: int, **figures: float) -> None:
        """See `Progress`."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, figures=_as_text(figures))
        self._show_whole(figures.get(LEFT_IN_ALL))
        if self._verbose:
            self.message(f"{self._stage}: {self._unit} {done}{_as_text(figures, all_of_them=True)}")

    def _show_whole(self, left: float | None) -> None:
        """The command's time as a bar of its own, once it is known how much is left."""
        if left is None:
            return
        if self._whole is None:
            self._whole = self._bars.add_task(_WHOLE, total=100, unit="%", figures="")
        elapsed = time.monotonic() - self._began
        share = elapsed / max(elapsed + left, 1e-9)
        self._bars.update(self._whole, completed=int(100 * share), figures=f"  {about(left)} left")

    def message(self, text: str) -> None:
        """See `Progress`."""
        self._bars.console.print(visible(text), markup=False, soft_wrap=True)

    def finish(self) -> None:
        """See `Progress`."""
        if self._task is None:
            return
        self._bars.stop_task(self._task)
        [task] = [task for task in self._bars.tasks if task.id == self._task]
        self._bars.remove_task(self._task)
        self._task = None
        self._bars.console.print(self._bars.make_tasks_table([task]))

    def end(self) -> None:
        """The command is over: nothing is left of it, which a bar would still count down."""
        if self._whole is not None:
            self._bars.remove_task(self._whole)
            self._whole = None


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose output shows HTML."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return ask is not None and hasattr(ask(), "kernel")


@dataclass
class _Stage:
    """One stage's bar."""

    name: str
    total: int
    unit: str
    began: float
    done: int = 0
    first: int = -1
    figures: str = ""
    left: str = ""

    @property
    def text(self) -> str:
        return f"{self.name} {self.unit} {self.done}/{self.total}{self.figures}{self.left}"

    def update(self, done: int, figures: str, in_all: str) -> None:
        """`done` steps are finished; the time left is by those seen, and `in_all` for the whole."""
        self.first = done if self.first < 0 else self.first
        steps, seconds = done - self.first, time.monotonic() - self.began
        left = seconds / (steps + 1) * (self.total - done) if steps > 0 else 0.0
        self.done, self.figures, self.left = done, figures, (f"  {left:.0f} s left" if left else "") + in_all


class NotebookProgress:
    """Bars and messages in one output of a notebook, in the order in which they came.

    It is HTML without scripts or widgets, so that a saved notebook shows how it ended. `display` is that of
    IPython.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display, self._handle = display, None
        self._entries: list[str | _Stage] = []
        self._last = 0.0

    def start(self, stage: str, total: int, unit: str) -> None:
        """See `Progress`."""
        self._forget_times()
        self._entries.append(_Stage(stage, total, unit, time.monotonic()))
        self._show()

    def update(self, done: int, **figures: float) -> None:
        """See `Progress`."""
        at_work = next((entry for entry in reversed(self._entries) if isinstance(entry, _Stage)), None)
        if at_work is None:
            return
        at_work.update(done, _as_text(figures), _in_all(figures))
        if done >= at_work.total or time.monotonic() - self._last > _SECONDS_BETWEEN_PICTURES:
            self._show()

    def message(self, text: str) -> None:
        """See `Progress`."""
        self._entries.append(text)
        self._show()

    def finish(self) -> None:
        """See `Progress`."""
        self._forget_times()
        if self._entries:
            self._show()

    def _forget_times(self) -> None:
        for entry in self._entries:
            if isinstance(entry, _Stage):
                entry.left = ""

    def _show(self) -> None:
        self._last = time.monotonic()
        if self._handle is None:
            self._handle = self._display(self, display_id=True)
        else:
            self._handle.update(self)

    def __repr__(self) -> str:
        return "\n".join(entry if isinstance(entry, str) else entry.text for entry in self._entries)

    def _repr_html_(self) -> str:
        lines = "".join(map(_as_html, self._entries))
        return f'<div style="font-family: monospace; font-size: 90%; white-space: pre-wrap">{lines}</div>'


def _as_html(entry: str | _Stage) -> str:
    text = html.escape(visible(entry if isinstance(entry, str) else entry.text)) or "&nbsp;"
    bar = "" if isinstance(entry, str) else f'<progress value="{entry.done}" max="{entry.total}"></progress> '
    return f"<div>{bar}{text}</div>"


class _StageRemaining(TimeRemainingColumn):
    """Time that is left of a stage, by its steps; the bar of the whole command says it in words."""

    def render(self, task: Task) -> Text:
        return Text("") if task.description == _WHOLE else super().render(task)


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description:<8}", markup=False),
        BarColumn(bar_width=14),
        MofNCompleteColumn(table_column=Column(min_width=7, justify="right")),  # bars of one width
        TextColumn("{task.fields[unit]:<10}", markup=False),
        TextColumn("{task.fields[figures]}", markup=False),
        _StageRemaining(compact=True, elapsed_when_finished=True),
        console=console,
        speed_estimate_period=3600,  # an epoch can take longer than the usual 30 seconds
    )


def _in_all(figures: Mapping[str, float]) -> str:
    """How long it takes to the end of the command, where that is known."""
    left = figures.get(LEFT_IN_ALL, 0.0)
    return f"  {about(left)} left in all" if left >= _WORTH_A_WORD else ""


def _as_text(figures: Mapping[str, float], *, all_of_them: bool = False) -> str:
    names = [
        name for name in (figures if all_of_them else _FIGURES) if name in figures and name != LEFT_IN_ALL
    ]
    return "".join(f"  {_SHORT.get(name, name)} {figure(name, figures[name])}" for name in names)


_SHORT = {"accuracy": "acc", "flops": "FLOPs"}
