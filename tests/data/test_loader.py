"""A loader that is left in the middle goes on where it was, with its workers."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import jstc.data
from jstc.core import worker
from jstc.core.signals import ENDING
from jstc.data import Dataset, Epoch, decoding
from jstc.data.loader import LoaderCache, Place
from jstc.errors import StageError, WorkerError
from jstc.recipe.schema import InputSettings

Make = Callable[..., Path]


class Source:
    """Starts feeds whose batches are their places, three to an epoch."""

    def __init__(self) -> None:
        self.started: list[Place] = []

    def __call__(self, place: Place) -> Iterator[Place]:
        self.started.append(place)
        epoch, step = place
        while True:
            yield Place(epoch, step)
            epoch, step = (epoch, step + 1) if step < 2 else (epoch + 1, 0)


def _take(feeds: LoaderCache, source: Source, place: Place, count: int = 9, stream: str = "a") -> list[Place]:
    batches = feeds.run(stream, place, 3, start=source)
    return list(itertools.islice(batches, count))


def test_the_next_use_goes_on_at_the_next_batch_across_epochs() -> None:
    feeds, source = LoaderCache(), Source()
    assert _take(feeds, source, Place(0, 0), 2) == [(0, 0), (0, 1)]
    assert _take(feeds, source, Place(0, 2)) == [(0, 2)]
    assert _take(feeds, source, Place(1, 0), 1) == [(1, 0)]
    assert source.started == [(0, 0)]


def test_another_place_starts_anew() -> None:
    feeds, source = LoaderCache(), Source()
    _take(feeds, source, Place(0, 0), 2)
    assert _take(feeds, source, Place(0, 1)) == [(0, 1), (0, 2)]
    assert source.started == [(0, 0), (0, 1)]


def test_two_at_once_do_not_disturb_each_other() -> None:
    feeds, source = LoaderCache(), Source()
    pair = [feeds.run("a", Place(0, 0), 3, start=source) for _ in range(2)]
    assert list(zip(*pair, strict=True)) == [((0, n), (0, n)) for n in range(3)]


def test_the_least_recently_used_is_given_up() -> None:
    feeds, source = LoaderCache(), Source()
    for stream in ("a", "b", "c", "c", "b", "a"):
        _take(feeds, source, Place(0, 0) if len(source.started) < 3 else Place(0, 1), 1, stream)
    assert source.started == [(0, 0)] * 3 + [(0, 1)]  # only a, the oldest, had to start again


def test_a_feed_that_failed_is_not_used_again() -> None:
    def failing(_place: Place) -> Iterator[Place]:
        yield Place(0, 0)
        raise OSError("gone")

    feeds, source = LoaderCache(), Source()
    with pytest.raises(OSError, match="gone"):
        list(feeds.run("a", Place(0, 0), 3, start=failing))
    assert _take(feeds, source, Place(0, 1)) == [(0, 1), (0, 2)]
    assert source.started == [(0, 1)]


def _load(make_tree: Make) -> Dataset:
    settings = InputSettings(image_size=16, workers=1)
    root = make_tree(classes=2, images=6)
    return jstc.data.load("imagefolder", root=root, settings=settings, seed=0, device=torch.device("cpu"))


def test_workers_end_with_the_data_set(make_tree: Make) -> None:
    data = _load(make_tree)
    next(data.train_full.shuffled(4, Epoch(0, 0)))
    assert multiprocessing.active_children()
    gc.disable()  # without its help
    try:
        del data
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_rounds_share_their_workers_and_see_the_same_batches(make_tree: Make) -> None:
    data = _load(make_tree)
    train = data.train_full
    whole = [images for epoch in (0, 1) for images, _ in train.shuffled(4, Epoch(0, epoch))]
    data.close()
    workers, found = set(), []
    for epoch, start in ((0, 0), (0, 2), (1, 1)):
        batches = train.shuffled(4, Epoch(0, epoch, start=start))
        found += [images for images, _ in itertools.islice(batches, 2)]
        if (epoch, start) == (0, 2):
            found += [next(train.shuffled(4, Epoch(0, 1)))[0]]
        workers |= {process.pid for process in multiprocessing.active_children()}
    assert len(workers) == 1
    assert all(torch.equal(one, other) for one, other in zip(whole, found, strict=True))
    del batches
    data.close()
    assert not multiprocessing.active_children()


def _dying(told: str) -> type:
    class Dying:
        def __init__(self, *_args: object, **_options: object) -> None:
            pass

        def __iter__(self) -> Iterator[int]:
            yield 1
            raise RuntimeError(told)

    return Dying


@pytest.mark.parametrize(
    ("told", "kind"),
    [("DataLoader worker (pid 7) is killed by signal: Killed.", StageError), ("x", RuntimeError)],
)
def test_a_worker_that_dies_ends_the_run_with_a_message(
    monkeypatch: pytest.MonkeyPatch, told: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(decoding, "DataLoader", _dying(told))
    answers = decoding.in_workers([], [], workers=1)  # type: ignore[arg-type]
    assert next(answers) == 1
    message = r"has died, .* a lower input\.workers, now 1\. .* \(pid 7\)" if kind is StageError else "^x$"
    with pytest.raises(kind, match=message):
        next(answers)


def test_signals_to_the_workers_are_left_to_the_process_that_reads(make_tree: Make) -> None:
    """As `timeout`, a terminal and a manager of services send them: to all processes at once."""
    data = _load(make_tree)
    batches = data.train_full.shuffled(4, Epoch(0, 0))
    whole = [next(batches)]
    [process] = multiprocessing.active_children()
    for number in ENDING:
        subprocess.run(["kill", f"-{int(number)}", str(process.pid)], check=True)
    whole += list(batches)
    assert len(whole) == data.train_full.steps(4)
    assert multiprocessing.active_children() == [process]


def test_the_death_of_a_worker_is_told_where_a_batch_is_asked_for(make_tree: Make) -> None:
    """And not wherever the process is just then, in the middle of a step, say."""
    batches = _load(make_tree).train_full.shuffled(2, Epoch(0, 0))
    next(batches)
    [process] = multiprocessing.active_children()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    time.sleep(0.01)
    with pytest.raises(
        WorkerError, match=r"has died, for want of memory perhaps .* a lower input\.workers, now 1"
    ):
        list(batches)


def test_a_worker_that_somebody_has_ended_did_not_want_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SimpleNamespace(exitcode=-signal.SIGTERM)
    found = iter(([], [ended]))
    monkeypatch.setattr(multiprocessing, "active_children", lambda: next(found))
    monkeypatch.setattr(worker, "_ON_ITS_WAY_SECONDS", 0)
    monkeypatch.setattr(
        decoding, "DataLoader", _dying("DataLoader worker (pid 7) is killed by signal: Terminated.")
    )
    with pytest.raises(WorkerError, match="was ended from outside, by SIGTERM; what was finished is saved"):
        list(decoding.in_workers([], [], workers=1))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_process_with_a_paused_loader_ends_quietly(make_tree: Make) -> None:
    code = (
        "import jstc.data, torch, pathlib\nfrom jstc.recipe.schema import InputSettings\n"
        f"root = pathlib.Path({str(make_tree())!r})\n"
        "data = jstc.data.load('imagefolder', root=root, settings=InputSettings(image_size=16, workers=1),"
        " seed=0, device=torch.device('cpu'))\n"
        "print(len(next(data.train.shuffled(2, jstc.data.Epoch(0, 0)))[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
