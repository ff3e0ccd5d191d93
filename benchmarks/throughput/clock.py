"""Which part of a round the time goes to: every instant belongs to the innermost part at work."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from unittest import mock

from jstc.jst import round as rounds_training
from jstc.jst import rounds, selection, turns
from jstc.train import collectives, metrics
from jstc.train.checkpoint import Checkpoints
from jstc.train.metrics import History

__all__ = ["JUDGING", "OTHER", "STEPS", "Stopwatch", "watched"]

T = TypeVar("T")

STEPS, JUDGING, OTHER = "training steps", "judging", "other"

# Where the search's own code looks its parts up, and what they are for.
_PARTS: list[tuple[Any, str, str]] = [
    (turns, "choose", "sampling"),
    (rounds, "cut", "cutting"),
    (selection, "cut", "cutting"),
    (rounds, "judge", JUDGING),
    (selection, "judge", JUDGING),
    (rounds_training, "train_steps", STEPS),
    (rounds_training, "_gate_step", STEPS),
    (metrics, "require_finite", "looking for infinities"),
    (collectives, "require_equal", "comparing processes"),
    (turns, "put_back", "mapping back"),
    (rounds, "record", "history"),
    (History, "append", "history"),
    (Checkpoints, "save", "checkpoint"),
]


class Stopwatch:
    """Seconds by part, each without the parts inside it. `sync` waits for the device, `now` is the clock.

    A part inside itself is looked at neither by the clock nor by `sync`, so that nothing waits between
    training steps.
    """

    def __init__(
        self, sync: Callable[[], None] = lambda: None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._sync, self._now, self._parts, self._since = sync, now, [OTHER], now()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The block belongs to the part."""
        if self._parts[-1] == name:
            yield
            return
        self._charge()
        self._parts.append(name)
        try:
            yield
        finally:
            self._charge()
            self._parts.pop()

    def around(self, function: Callable[..., T], name: str) -> Callable[..., T]:
        """`function`, whose calls belong to the part."""

        def timed(*arguments: Any, **options: Any) -> T:
            with self.part(name):
                return function(*arguments, **options)

        return timed

    def over(self, items: Iterator[T], name: str) -> Iterator[T]:
        """`items`, the making of which belongs to the part."""
        while True:
            with self.part(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def restart(self) -> None:
        """Forget everything."""
        self._charge()
        self.seconds.clear()

    def read(self) -> dict[str, float]:
        """Seconds by part since the last restart."""
        self._charge()
        return dict(self.seconds)

    def _charge(self) -> None:
        self._sync()
        now = self._now()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now


@contextlib.contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """In the block the parts of a search's rounds belong to `watch`'s parts."""
    with contextlib.ExitStack() as stack:
        for owner, name, part in _PARTS:
            replacement = watch.around(getattr(owner, name), part)
            stack.enter_context(mock.patch.object(owner, name, replacement))
        batches = rounds_training._batches
        fed = lambda *given: watch.over(batches(*given), STEPS)  # noqa: E731
        stack.enter_context(mock.patch.object(rounds_training, "_batches", fed))
        yield
