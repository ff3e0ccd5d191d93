"""The command line. Importing this loads neither torch nor onnx nor pydantic: `--help` must be quick."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    # OpenMP's threads otherwise spin while they wait for each other; where another process wants the same
    # cores, that made training three to five times slower. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from jstc.cli.exit_codes import exit_codes
    from jstc.core import processes

    with _one_of_several() if processes.several() else contextlib.nullcontext(), exit_codes():
        if processes.follows():  # what process 0 reads from the command line, it passes on
            _follow()
        from jstc.cli.app import app

        app(args=None if arguments is None else list(arguments), prog_name="jstc")


@contextlib.contextmanager
def _one_of_several() -> Iterator[None]:
    # torch's own notes about gradients' layouts and closed connections, once for each process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from jstc.runs import workers

    try:
        with workers.leading():
            yield
    except (SystemExit, KeyboardInterrupt) as done:
        code = getattr(done, "code", 130)
        if code:
            # Cleaning up connections to a process that is gone would wait for it, for many seconds.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
        raise


def _follow() -> None:
    from jstc.runs.follower import follow

    sys.exit(follow())
