"""Exceptions to messages and exit codes: one short message on stderr, a traceback only with --debug."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator

from jstc.errors import JstcError

__all__ = ["exit_codes", "in_json", "show_tracebacks", "visible"]

# Text from files, made safe to print: names in them could otherwise move the cursor or reorder a line.

# Controls but tab and line end, marks that turn the direction of writing, halves of characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with what a terminal would obey as an escape: `\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def in_json(text: str) -> str:
    r"""Escape the text of a JSON document likewise, in its own form: `\u009b`."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
        _say("interrupted")
        sys.exit(_INTERRUPTED)
    except JstcError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        _say(f"{_describe(error)} (--debug shows the traceback)")
        sys.exit(_FAILED)


def _say(message: str) -> None:
    if _state["debug"]:
        traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        print(visible(f"error: {message}"), file=sys.stderr, flush=True)


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _flush_quietly() -> None:
    # The reader of a pipe may be gone; Python would complain about it once more at exit.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
