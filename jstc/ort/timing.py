"""Timing of several sessions side by side."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from jstc.errors import InputError
from jstc.ort import events, sessions
from jstc.ort.sessions import Provider

__all__ = [
    "Facts",
    "Opened",
    "WarmUp",
    "interleaved_seconds",
    "open_file",
    "prepare",
    "read_facts",
    "warm_up",
]

STABLE = 0.05
"""Steady: the medians of the last window and of the one before differ by no more than this share."""

_WINDOW = 5
_MAX_WARM_UP_ROUNDS = 200
_PATIENCE = 4
_MIN_ROUNDS = 5
_MAX_ROUNDS = 5000
_ORDER_SEED = 0

Run = Callable[[], object]
Latencies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WarmUp:
    """How many rounds were made before the measuring, and which of the runs were steady at the end."""

    rounds: int
    steady: tuple[bool, ...]


def warm_up(runs: Sequence[Run], *, seconds: float) -> WarmUp:
    """Make rounds of all of `runs` until the latency of each is steady, for about `seconds` at most.

    Steadiness shows after ten rounds, for which there is four times as long.

    They take turns as they will when measured: alone, each would warm caches that the others then empty.
    """
    rounds = _Rounds(runs)
    while len(rounds.latencies) < _MAX_WARM_UP_ROUNDS:
        rounds.make()
        steady = _steady(rounds.array())
        if all(steady) or _is_late(rounds, seconds):
            break
    return WarmUp(len(rounds.latencies), steady)


def interleaved_seconds(runs: Sequence[Run], *, seconds: float) -> Latencies:
    """Latencies [rounds, runs] in seconds: every round makes each of `runs` once, in an order of its own.

    Interleaving lets whatever disturbs the machine disturb all of them alike; the order is shuffled, so that
    none always follows the same other. Takes about `seconds`, but never fewer than five rounds.
    """
    rounds = _Rounds(runs)
    while len(rounds.latencies) < _MAX_ROUNDS:
        rounds.make()
        if len(rounds.latencies) >= _MIN_ROUNDS and rounds.seconds() > seconds:
            break
    return rounds.array()


class _Rounds:
    """Rounds made so far; `latencies` are in seconds, in the order of `runs`."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.latencies: list[list[float]] = []
        self._random = np.random.default_rng(_ORDER_SEED)
        self._begin = time.perf_counter()

    def make(self) -> None:
        """One more."""
        found = [0.0] * len(self.runs)
        for index in self._random.permutation(len(self.runs)).tolist():
            found[index] = _timed(self.runs[index])
        self.latencies.append(found)

    def seconds(self) -> float:
        """Since the first began."""
        return time.perf_counter() - self._begin

    def array(self) -> Latencies:
        """[rounds, runs]."""
        return np.array(self.latencies)


def _is_late(rounds: _Rounds, seconds: float) -> bool:
    # Whether a latency is steady shows after two windows: slow files get a little longer for these.
    shown = len(rounds.latencies) >= 2 * _WINDOW
    return rounds.seconds() > (seconds if shown else _PATIENCE * seconds)


def _steady(latencies: Latencies) -> tuple[bool, ...]:
    if len(latencies) < 2 * _WINDOW:
        return tuple(False for _ in latencies.T)
    last = np.median(latencies[-_WINDOW:], axis=0)
    before = np.median(latencies[-2 * _WINDOW : -_WINDOW], axis=0)
    return tuple(bool(near) for near in np.abs(last - before) <= STABLE * before)


def _timed(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


# One file on one provider: opened, its inputs made and placed, and where onnxruntime runs its nodes.

_INPUT_SEED = 0
_MOST_DIGITS = 18
_MOST_VALUES = 2**28
"""Of one image: 1 GiB of them. A file may claim any size."""
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Facts:
    """What is known of a file beforehand: FLOPs for one image, and its precision."""

    flops: int | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Opened:
    """A file in a session of its own. `elsewhere`: how many nodes other providers run, by provider."""

    label: str
    path: Path
    provider: Provider
    threads: int
    session: Any
    signature: sessions.Signature
    facts: Facts
    elsewhere: Mapping[str, int]

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the file takes; None: any."""
        return self.signature.input_shape[0]


def open_file(
    label: str, path: Path, *, provider: Provider, threads: int = 0, facts: Facts | None = None
) -> Opened:
    """The file, ready to be timed; what `facts` does not say is read from the file's metadata.

    Raises `InputError` for a file that cannot be opened or timed, or of which the provider runs nothing.
    """
    if provider == "cpu":
        session = sessions.open_session(path, threads=threads)
        found = _timable(session, path)
        return Opened(label, path, provider, threads, session, found, facts or read_facts(session), {})
    with tempfile.TemporaryDirectory() as folder:
        session = sessions.open_session(
            path, provider=provider, threads=threads, profile=Path(folder, "first")
        )
        found = _timable(session, path)
        opened = Opened(label, path, provider, threads, session, found, facts or read_facts(session), {})
        try:
            prepare(opened, opened.fixed_batch or 1)()
        except sessions.ORT_ERRORS as error:
            raise InputError(f"{path}: onnxruntime cannot run it: {sessions.first_line(error)}") from error
        finally:
            recorded = Path(session.end_profiling())  # from here on the session runs at its full speed
        used = events.providers(events.read(recorded))
    return Opened(
        label, path, provider, threads, session, found, opened.facts, _elsewhere(used, provider, path)
    )


def read_facts(session: Any) -> Facts:
    """FLOPs and precision, as the metadata of the session's file tells them."""
    known = session.get_modelmeta().custom_metadata_map
    flops = known.get("flops", "")[:_MOST_DIGITS]
    return Facts(int(flops) if flops.isdecimal() and int(flops) > 0 else None, known.get("precision"))


def prepare(opened: Opened, batch: int) -> Callable[[], object]:
    """A call that runs the file once, on the same images for every file, made before the clock starts.

    On the CPU from host memory to host memory; else from and to device memory, and it waits for the device.
    """
    shape = (batch, *(size or 0 for size in opened.signature.input_shape[1:]))
    images = np.random.default_rng(_INPUT_SEED).standard_normal(shape, dtype=np.float32)
    images = images.astype(_INPUT_TYPES[opened.signature.input_type])
    name = opened.signature.input_name
    if opened.provider == "cpu":
        return partial(opened.session.run, None, {name: images})
    binding = opened.session.io_binding()
    binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", 0))
    for output in opened.session.get_outputs():
        binding.bind_output(output.name, "cuda")
    return partial(_run_bound, opened.session, binding)


def _run_bound(session: Any, binding: Any) -> None:
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def _timable(session: Any, path: Path) -> sessions.Signature:
    found = sessions.signature(session, path)
    if found.input_type not in _INPUT_TYPES or None in found.input_shape[1:]:
        size = [size or "?" for size in found.input_shape]
        raise InputError(
            f"{path}: can time float images of a fixed size only, found {found.input_type} {size}"
        )
    if math.prod(size or 1 for size in found.input_shape) > _MOST_VALUES:
        raise InputError(f"{path}: its input {list(found.input_shape)} is too large to be timed")
    return found


def _elsewhere(used: Counter[str], provider: Provider, path: Path) -> dict[str, int]:
    own = sessions.PROVIDER_NAMES[provider]
    short = {name: key for key, name in sessions.PROVIDER_NAMES.items()}
    others = {short.get(name, name): count for name, count in used.items() if name != own}
    if not used[own]:
        raise InputError(f"{path}: none of its nodes run on {provider}; onnxruntime gave them to {others}")
    return others
