"""The command line. Importing this loads neither torch nor onnx nor pydantic: `--help` must be quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager

from jstc.core import processes, signals

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    With `arguments` it is called from Python, which goes on after that: there it raises `SystemExit`.
    """
    if arguments is not None:
        with signals.interruptible():
            _command(arguments)
        return
    signals.to_the_end()
    try:
        code = _code()
    except KeyboardInterrupt:  # one more, while the first was being told
        code = 130
    signals.final(code if isinstance(code, int) else int(code is not None))
    if code == 130:
        from jstc.core import worker

        worker.end_all()
    sys.exit(code)


def _code() -> int | str | None:
    try:
        _command(None)
    except SystemExit as done:
        return done.code
    return 0


def _command(arguments: Sequence[str] | None) -> None:
    # Signals are looked after from here on, which these have not to delay.
    from jstc.cli.exit_codes import exit_codes

    # OpenMP's threads otherwise spin while they wait for each other; where another process wants the same
    # cores, that made training three to five times slower. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with exit_codes():
        if processes.several():
            # Its own codes within: by them the block around it tells how the process ends.
            with _one_of_several(), exit_codes():
                _run(arguments)
        else:
            _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    if processes.follows():  # what process 0 reads from the command line, it passes on
        from jstc.cli import console
        from jstc.runs import commands

        with console.for_results_alone():
            code = commands.follow()
        sys.exit(code)
    from jstc.cli.app import app

    try:
        app(args=None if arguments is None else list(arguments), prog_name="jstc")
    except SystemExit:
        signals.require_none_lost()  # typer makes an exit code of it
        raise


def _one_of_several() -> AbstractContextManager[None]:
    # torch's own notes about gradients' layouts and closed connections, once for each process. Read when
    # torch is loaded, which the next line does.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from jstc.runs import workers

    return workers.one_of_several()
