"""`--precision fp32 fp16 int8`: an option that takes one value or several, told apart from the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jstc.errors import InputError, UnknownNameError

__all__ = ["KNOWN", "told_apart"]

KNOWN = ("fp32", "fp16", "int8")  # those of the recipe, which is too heavy to load for --help

_LIST = "precisions are fp32, fp16 and int8"


def told_apart(words: Sequence[str], given: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The run and the precisions: `given` are the option's own values, `words` stand beside it, in any order.

    A value may hold several names (`fp32,int8`). Raises `InputError` for several runs, `UnknownNameError` for
    what is neither a precision nor a run.
    """
    named = [name for value in given for name in _names(value)]
    for name in named:
        if name not in KNOWN:
            raise _unknown(name)
    runs = []
    for word in words:
        if given and all(name in KNOWN for name in _names(word)):
            named += _names(word)
        else:
            runs.append(word)
    return _run(runs, given), named


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name] or [text]


def _run(words: Sequence[str], given: Sequence[str]) -> Path | None:
    missing = next((word for word in words if not Path(word).exists()), None)
    if missing is not None:
        raise _missing(missing, given)
    if len(words) > 1:
        raise InputError(f"give one run directory, not {' and '.join(words)}")
    return Path(words[0]) if words else None


def _missing(word: str, given: Sequence[str]) -> InputError:
    if not given:
        hint = f"; for a precision: --precision {word}" if word in KNOWN else ""
        return InputError(f"no run directory at {word}{hint}")
    unknown = _unknown(word)  # of a name that is mistyped either could have been meant
    return (
        unknown if unknown.near else InputError(f"no run directory at {word}, and no such precision; {_LIST}")
    )


def _unknown(name: str) -> UnknownNameError:
    part = next((part for part in _names(name) if part not in KNOWN), name)
    return UnknownNameError("precision", part, KNOWN, f"({_LIST})")
