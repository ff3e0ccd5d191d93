"""Loaders that pause between two uses, with what their workers have prepared."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

__all__ = ["Feeds", "Place"]

_MOST = 2  # a search trains on one split and asks another in turn


class Place(NamedTuple):
    """The next batch of a feed."""

    epoch: int
    step: int


_ALL: weakref.WeakSet[Feeds] = weakref.WeakSet()


def _close_all() -> None:
    for feeds in list(_ALL):
        feeds.close()


class Feeds:
    """Endless iterators over epoch after epoch, each to be had again at the place where it was left.

    Starting workers takes long, and what they have prepared would be lost: a round that ends after a few
    batches leaves its loader for the next round, which begins with the next batch. The least recently used
    ones are given up.
    """

    def __init__(self) -> None:
        self._paused: dict[Hashable, Iterator[Any]] = {}
        _ALL.add(self)

    def run(
        self, stream: Hashable, place: Place, steps: int, *, start: Callable[[Place], Iterator[Any]]
    ) -> Iterator[Any]:
        """The batches of an epoch of `steps` from `place` on; `start` makes a new feed where none waits."""
        feed = self._paused.pop((stream, place), None) or start(place)
        whole = True
        try:
            while place.step < steps:
                whole = False
                batch = next(feed)
                whole, place = True, Place(place.epoch, place.step + 1)
                yield batch
        finally:
            if whole:
                self._pause((stream, place if place.step < steps else Place(place.epoch + 1, 0)), feed)

    def close(self) -> None:
        """End the workers."""
        self._paused.clear()

    def _pause(self, key: Hashable, feed: Iterator[Any]) -> None:
        self._paused[key] = feed
        # At exit the loader waits five seconds for each worker, unless it has been closed before: the last
        # registered goes first.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        while len(self._paused) > _MOST:
            del self._paused[next(iter(self._paused))]
