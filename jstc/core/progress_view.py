"""Progress on stderr: a live line on a terminal, plain lines elsewhere, bounded in rate."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from jstc.core.numbers import figure
from jstc.core.progress import Progress, Silent
from jstc.core.safe_text import visible

__all__ = ["PlainLines", "RichProgress", "shown"]

_SECONDS_BETWEEN_LINES = 5.0
_FIGURES = ("accuracy", "loss", "flops")  # what fits on a line of 80 columns


@contextlib.contextmanager
def shown(*, quiet: bool, verbose: bool) -> Iterator[Progress]:
    """The `Progress` that suits stderr; gone, cursor restored, when the block is left."""
    if quiet:
        yield Silent()
        return
    console = Console(file=cast(IO[str], _Hearer(sys.stderr)), highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainLines(every=0.0 if verbose else _SECONDS_BETWEEN_LINES)
        return
    with _bars(console) as bars:
        yield RichProgress(bars, verbose=verbose)


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
        self._print(text + (f"  {left:.0f} s left" if left else ""))

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
    """A live bar for the stage at work; the bars of finished stages stay."""

    def __init__(self, bars: Bars, *, verbose: bool = False) -> None:
        self._bars, self._verbose = bars, verbose
        self._task: TaskID | None = None
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
        if self._verbose:
            self.message(f"{self._stage}: {self._unit} {done}{_as_text(figures, all_of_them=True)}")

    def message(self, text: str) -> None:
        """See `Progress`."""
        self._bars.console.print(visible(text), markup=False, soft_wrap=True)

    def finish(self) -> None:
        """See `Progress`."""
        if self._task is not None:
            self._bars.stop_task(self._task)
            self._task = None


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description:<8}", markup=False),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=console,
        speed_estimate_period=3600,  # an epoch can take longer than the usual 30 seconds
    )


def _as_text(figures: Mapping[str, float], *, all_of_them: bool = False) -> str:
    names = figures if all_of_them else [name for name in _FIGURES if name in figures]
    return "".join(f"  {_SHORT.get(name, name)} {figure(name, figures[name])}" for name in names)


_SHORT = {"accuracy": "acc", "flops": "FLOPs"}
