"""Exceptions to messages and exit codes: one short message on stderr, a traceback only with --debug."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from jstc.core import processes, signals
from jstc.core.safe_text import visible
from jstc.errors import JstcError

__all__ = ["exit_codes", "show_tracebacks"]

_FAILED = 1
_INTERRUPTED = 130
_state = {"debug": False}


def show_tracebacks(wanted: bool) -> None:
    """From here on, show the traceback of whatever ends the command (`--debug`)."""
    _state["debug"] = wanted


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn whatever leaves the block into a message and an exit code."""
    _state["debug"] = False
    try:
        yield
        sys.stdout.flush()
    except SystemExit as done:
        _flush_quietly()
        raise done
    except BrokenPipeError:
        _flush_quietly()
        sys.exit(_FAILED)
    except KeyboardInterrupt:
        _interrupted()
    except JstcError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if signals.was_interrupted():  # what a library has made of it
            _interrupted()
        _say(f"{_describe(error)} (--debug shows the traceback)")
        sys.exit(_FAILED)


def _interrupted() -> NoReturn:
    if not processes.follows():  # process 0 says it for all
        _say("interrupted; the same command begins again, or goes on where it was")
    sys.exit(_INTERRUPTED)


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # the reader of a pipe may be gone, or the terminal
        if _state["debug"]:
            traceback.print_exc()
        print(visible(f"error: {message}"), file=sys.stderr, flush=True)


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _flush_quietly() -> None:
    # The reader of a pipe may be gone, or the terminal; Python would complain about it once more at exit.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
