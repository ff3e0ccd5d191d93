"""Every exception that jstc raises on purpose.

    JstcError                    exit code 1: something failed while working
    |-- InputError               exit code 2: what the user gave is wrong
    |   |-- RecipeError          a key, a type or a value of the recipe
    |   |-- UnknownNameError     no such model, dataset, stage ...; suggests near names
    |   |-- DataError            a missing folder, an unreadable tree, a wrong column
    |   |-- ModelError           a model that cannot be built, or weights that do not fit it
    |   |-- BudgetError          a budget that no sub-network can meet
    |   |-- DamagedError         a file that is too large, damaged, or leads out of its folder
    |   `-- RunDirectoryError    locked, foreign, or changed under our feet
    |-- StageError               a stage could not do its work
    |   |-- DivergedError        a training whose loss or weights are not finite any more
    |   |-- DiskFullError        no space for a file; the old one is still there
    |   |-- FolderGoneError      the folder of a run was deleted or replaced while it ran
    |   |-- WorkerError          a process that works for this one has died
    |   |-- ChannelError         a plan that does not fit the network
    |   `-- ParityError          torch and ONNX disagree
    |-- GateError                exit code 3: a gate that the user asked for said no
    `-- Interrupted              exit code 130: stopped by the user, state saved

Messages are written for the person at the terminal: what is wrong, where, and what would be right. Whoever
needs a part of one takes a field of the error; nothing is decided by the words of a message.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "BudgetError",
    "ChannelError",
    "DamagedError",
    "DataError",
    "DiskFullError",
    "DivergedError",
    "FolderGoneError",
    "GateError",
    "InputError",
    "Interrupted",
    "JstcError",
    "ModelError",
    "ParityError",
    "RecipeError",
    "RunDirectoryError",
    "StageError",
    "UnknownNameError",
    "WorkerError",
    "near_names",
]


OTHER_TASKS = "for any other task there is jstc.JointSearch, in your own training loop: docs/any-network.md"
"""Advice to whoever brings what does not classify images."""


def near_names(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """Names, three at most, that differ from `name` in the order of the letters alone, or in a few letters.

    `cutoff`: the least similarity, from 0 to 1, as `difflib.get_close_matches` has it.
    """
    known = list(dict.fromkeys(known))
    swapped = [other for other in known if sorted(other) == sorted(name)]
    return swapped[:3] or difflib.get_close_matches(name, known, n=3, cutoff=cutoff)


class JstcError(Exception):
    """Base of all errors that jstc raises on purpose.

    `problem` is what is wrong, `details` are lines that show it, `advice` is what to do about it where that
    is worth a word of its own; the message is all of them.
    """

    exit_code = 1

    def __init__(self, problem: str, advice: str = "", *, details: Sequence[str] = ()) -> None:
        if details:
            lines = [f"{problem}:", *(f"  {line}" for line in details), advice]
            text = "\n".join(line for line in lines if line)
        else:
            text = f"{problem}; {advice}" if advice else problem
        super().__init__(text)
        self.problem, self.advice, self.details = problem, advice, tuple(details)


class InputError(JstcError):
    """What the user gave is wrong; found before work starts."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe key, type or value is wrong."""


class UnknownNameError(InputError):
    """A name that is not in a list of known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        near = near_names(name.lower(), known)
        problem = f"unknown {kind} '{name}'"
        meant = "did you mean " + " or ".join(f"'{n}'" for n in near) + "?" if near else ""
        text = f"{problem}; {meant}" if meant else problem
        super().__init__(text + (f"{' ' if meant else '. '}{hint}" if hint else ""))
        self.problem, self.advice = problem, " ".join(filter(None, (meant, hint)))
        self.near = near


class DataError(InputError):
    """A dataset that is missing, unreadable or of the wrong form."""


class ModelError(InputError):
    """A model that cannot be built, or weights that do not fit it."""


class BudgetError(InputError):
    """A budget that no sub-network of the target network can meet."""


class DamagedError(InputError, ValueError):
    """A file that is too large, damaged, or leads out of its folder; a `ValueError` to whoever parses."""


class RunDirectoryError(InputError):
    """A run directory that is locked, foreign, or damaged."""


class StageError(JstcError):
    """A stage could not do its work."""


class DivergedError(StageError):
    """A loss or weights that are not finite; `what` says which of them, and before which step.

    `precision` is the number format that was trained in, where that is known.
    """

    def __init__(self, what: str, *, lr: float, tried: str = "", precision: str = "") -> None:
        wider = precision not in ("", "float32")
        super().__init__(
            f"training {f'in {precision} ' if precision else ''}diverged {what}"
            + (f"; {tried}" if tried else ""),
            f"try a lower train.lr (now {lr:g}), a longer train.warmup_epochs, "
            + ("train.clip_norm, or train.precision=float32" if wider else "or train.clip_norm"),
        )
        self.what = what


class DiskFullError(StageError):
    """No space on the disk for a file that was to be written; what stood there before is intact."""


class FolderGoneError(StageError):
    """The folder that a run is at work in was deleted, moved or replaced."""


class WorkerError(StageError):
    """A process that works for this one has died."""


class ChannelError(StageError):
    """A plan that does not fit the network it is applied to."""


class ParityError(StageError):
    """The exported graph and the network disagree."""


class GateError(JstcError):
    """A gate that the user asked for said no."""

    exit_code = 3


class Interrupted(JstcError):
    """Stopped by the user; the state is saved."""

    exit_code = 130
