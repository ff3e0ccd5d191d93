"""A small real run in a child process, that dies by SIGKILL at a given write, or whenever its parent says."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jstc.core import files
from jstc.core.progress import Silent
from jstc.errors import JstcError
from jstc.models.user_code import Permissions
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands
from jstc.train import checkpoint, device
from jstc.train.metrics import History

__all__ = ["STAGES", "Chosen", "Events", "fork", "recipe", "start", "wait"]

STAGES = ("search", "finetune", "slim", "export")
MODEL = f"{Path(__file__).with_name('model.py')}:net"
SETTINGS: dict[str, Any] = {
    "input.image_size": 8,
    "train.batch_size": 32,
    "train.lr": 0.05,
    "search.rounds": 4,
    "search.steps_per_round": 6,
    "search.importance": "learned",
    "search.gate_steps": 2,
    "search.coarse_share": 0.5,
    "search.thresholds": "threshnet",
    "search.candidates": 2,
    "search.candidate_images": 64,
    "search.eval_images": 64,
    "search.recalibration_images": 64,
    "finetune.epochs": 2,
    "finetune.steps_per_epoch": 6,
    "checkpoint.every_steps": 4,
}


@dataclass(frozen=True)
class Chosen:
    """What the runs are: the recipe and its stages."""

    recipe: Recipe
    stages: tuple[str, ...]


def recipe(until: str = STAGES[-1]) -> Chosen:
    """The tiny recipe on the digits, up to the stage `until`."""
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]
    flags = {"model": MODEL, "dataset": "digits", "flops": "0.5"}
    return Chosen(loading.from_flags(flags, settings), STAGES[: STAGES.index(until) + 1])


class Events:
    """Counts what changes files, and kills its process at the event with the number `kill_at` (from 1).

    An event is a file half written, written and not yet on disk, on disk and not yet renamed, or renamed.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.count, self.kill_at = 0, kill_at

    def happens(self, half: Callable[[], object] | None = None) -> None:
        """An event; `half` does the half of what is at work, when it is the last one."""
        self.count += 1
        if self.count == self.kill_at:
            if half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Look at all writes of this process from here on."""
        os.fsync = self._around(os.fsync)
        os.link = self._around(os.link)
        Path.replace = self._around(Path.replace)  # type: ignore[method-assign]
        checkpoint.save_file = self._cut(checkpoint.save_file)  # type: ignore[attr-defined]
        Path.write_bytes = self._cut_bytes(Path.write_bytes)  # type: ignore[method-assign]
        History._write = self._cut_line(History._write)  # type: ignore[method-assign]

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            self.happens()
            result = call(*args, **options)
            self.happens()
            return result

        return watched

    def _cut(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def watched(tensors: Any, path: Path, metadata: Any = None) -> None:
            save(tensors, path, metadata=metadata)
            self.happens(lambda: os.truncate(path, path.stat().st_size // 2))

        return watched

    def _cut_bytes(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def watched(path: Path, data: bytes) -> int:
            self.happens(lambda: write(path, data[: len(data) // 2]))
            return int(write(path, data))

        return watched

    def _cut_line(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def watched(history: History, line: bytes) -> None:
            self.happens(lambda: write(history, line[: len(line) // 2]))
            write(history, line)

        return watched


def start(directory: Path, chosen: Chosen, *, kill_at: int | None = None) -> int:
    """Begin or continue the run in a forked child, as `fork` does."""
    return fork(directory, lambda: _work(directory, chosen), kill_at=kill_at)


def fork(directory: Path, work: Callable[[], None], *, kill_at: int | None = None) -> int:
    """Do some work in a forked child; returns its process id. What it says is in `.log` beside `directory`.

    The number of its events is in `.events.json` when it ends by itself.
    """
    pid = os.fork()  # and not a new interpreter: torch and onnx are loaded once
    if pid:
        return pid
    code = 1
    try:
        _to_log(directory.with_suffix(".log"))
        events = Events(kill_at)
        events.watch()
        device.set_threads(1)
        work()
        files.write_json(directory.with_suffix(".events.json"), events.count)
        code = 0
    except JstcError as error:
        print(error)
        code = error.exit_code
    except BaseException:
        import traceback

        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _work(directory: Path, chosen: Chosen) -> None:
    permissions = Permissions(model=chosen.recipe.model)
    commands.run(
        chosen.recipe,
        out=directory,
        only=chosen.stages,
        progress=Silent(),
        command="again",
        permissions=permissions,
    )


def _to_log(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def wait(pid: int) -> int:
    """The exit code of a child; -9 when it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
