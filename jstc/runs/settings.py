"""Which stage reads which key of the recipe, and so what a run may be given anew once stages are done.

`READ_BY` is the one place that says it. A stage's own command may change the section of its name: the stage
runs again, and what was built on it. What only an earlier stage has read as well, the search, stays as that
has read it, and the run keeps a record of it. Everything else makes it another run.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jstc.data.base import GIVEN
from jstc.errors import RunDirectoryError
from jstc.recipe.explain import show
from jstc.recipe.loading import Changes, changes, told
from jstc.recipe.schema import InputSettings, Recipe
from jstc.runs.manifest import Manifest

__all__ = [
    "READ_BY",
    "RENEWABLE",
    "as_begun",
    "changed_sections",
    "read_by",
    "refuse_foreign",
    "refuse_other_run",
    "renewable",
    "with_keys_without_effect",
    "with_stored_sections",
]

_TRAINING = ("baseline", "search", "finetune")

READ_BY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "": ("given", *_TRAINING, "slim", "export", "bench"),  # network, weights, data, seed, device
        **dict.fromkeys(("flops", "params", "latency", "latency_on", "channels"), ("search",)),
        "search": ("baseline", "search"),  # the baseline for its length
        "train": _TRAINING,
        "finetune": ("finetune",),
        # For the length of the schedule, and the baseline as long a training of the same kind.
        **dict.fromkeys(("finetune.epochs", "finetune.steps_per_epoch"), _TRAINING),
        **dict.fromkeys(("finetune.ema_decay", "finetune.compile"), ("baseline", "finetune")),
        "export": ("export",),
        "bench": ("bench",),
        # What changes no number: every command may give others.
        **dict.fromkeys(("checkpoint", "tensorboard"), ()),
        **{f"input.{key}": () for key in sorted(InputSettings.FREE)},
    }
)
"""The stages that read a key, or the keys of a section, in the order of a run; the longest entry counts."""

RENEWABLE = ("finetune", "export", "bench")
"""Sections that the command of the stage of that name may change, after the search: the stage runs again."""

_FREE = tuple(name for name, stages in READ_BY.items() if not stages and "." not in name)


def read_by(key: str) -> tuple[str, ...]:
    """The stages that read a dotted key, in order; none where nothing in a run's numbers hangs on it."""
    parts = key.removeprefix("order of ").split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), -1, -1))
    return READ_BY[next(name for name in names if name in READ_BY)]


def renewable(stages: Collection[str]) -> tuple[str, ...]:
    """The sections that a command for several stages may change in a run: those that train nothing again.

    A long finetune is not to be lost because a recipe from before it is run once more.
    """
    return tuple(name for name in RENEWABLE if name in stages and name != "finetune")


# Two recipes of one run.


def with_stored_sections(recipe: Recipe, stored: Recipe, *, renew: Collection[str]) -> Recipe:
    """`recipe`, but with the renewable sections of `stored` but for those that the command may `renew`.

    So `jstc search` of a run that has been exported in other precisions since leaves the export alone.
    """
    kept = [name for name in RENEWABLE if name not in renew]
    return recipe.model_copy(update={name: getattr(stored, name) for name in kept})


def with_keys_without_effect(recipe: Recipe, other: Recipe) -> Recipe:
    """`recipe` with what `other` has of the settings that change nothing in a run's numbers."""
    reading = {name: getattr(other.input, name) for name in InputSettings.FREE}
    free = {name: getattr(other, name) for name in _FREE}
    return recipe.model_copy(update=free | {"input": recipe.input.model_copy(update=reading)})


def changed_sections(stored: Recipe, recipe: Recipe) -> dict[str, Changes]:
    """The keys that differ in each renewable section."""
    found = {name: _between(stored, recipe, name) for name in RENEWABLE}
    return {name: differing for name, differing in found.items() if differing}


def as_begun(recipe: Recipe, begun_with: Mapping[str, Any]) -> Recipe:
    """The recipe as the search has read it; `begun_with` are finetune's keys that were changed since."""
    before = {key.removeprefix("finetune."): value for key, value in begun_with.items()}
    return recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update=before)})


def _between(stored: Recipe, recipe: Recipe, section: str) -> Changes:
    return changes(stored, stored.model_copy(update={section: getattr(recipe, section)}))


# What makes it another run, and what the command of one stage may not change.

_MAX_SHOWN = 8


def refuse_other_run(
    path: Path, stored: Recipe, recipe: Recipe, begun_with: Mapping[str, Any], *, renew: Collection[str]
) -> None:
    """Raise `RunDirectoryError` unless the run at `path`, which is one of `stored`, is one of `recipe`, too.

    The sections in `renew` may be others. Finetune's may also be as they were when the run began.
    """
    alike = with_stored_sections(recipe, stored, renew=())
    found = changes(stored, with_keys_without_effect(alike, stored))
    known = (stored.finetune, as_begun(stored, begun_with).finetune)
    if "finetune" not in renew and recipe.finetune not in known:
        found |= _between(stored, recipe, "finetune")
    if not found:
        return
    lines = told(found)
    if len(lines) > _MAX_SHOWN:
        lines[_MAX_SHOWN:] = [f"... and {len(lines) - _MAX_SHOWN} more"]
    if stored.dataset == GIVEN:  # only Python has its network and data
        advice = "start over with fresh=True, write elsewhere with out=, or go back to the old settings"
        raise RunDirectoryError(f"{path} belongs to a run with other settings", advice, details=lines)
    advice = "start over with --fresh, write elsewhere with --out DIR, or go back to the old settings"
    if all(_section(key) == "finetune" for key in found):
        advice += f"; finetune alone runs again by `{_command('finetune', path, found)}`"
    raise RunDirectoryError(f"{path} belongs to a run with other settings", advice, details=lines)


def refuse_foreign(path: Path, stage: str, stored: Recipe, recipe: Recipe) -> None:
    """Raise `RunDirectoryError` for settings that `jstc STAGE` cannot change in the run at `path`.

    Each is named with the stage that has read it already, or with the command that it is for.
    """
    own = recipe.model_copy(update={stage: getattr(stored, stage)}) if stage in RENEWABLE else recipe
    found = changes(stored, with_keys_without_effect(own, stored))
    if not found:
        return
    manifest = Manifest.load(path)
    lines = [_refused(key, change, path, manifest) for key, change in found.items()]
    another = any(_section(key) not in RENEWABLE for key in found)
    raise RunDirectoryError(
        f"`jstc {stage}` cannot change this in a run",
        "what was read already makes it another run: --out DIR or --fresh of `jstc search` and `jstc run`"
        if another
        else "",
        details=lines,
    )


def _refused(key: str, change: tuple[object, object], path: Path, manifest: Manifest | None) -> str:
    [line] = told({key: change})
    if _section(key) in RENEWABLE:
        return f"{line}, for `{_command(_section(key), path, {key: change})}`"
    records = {} if manifest is None else manifest.stages
    begun = [name for name in read_by(key) if name in records and records[name].state != "pending"]
    return f"{line}: the stage {begun[0]} has read it" if begun else line


def _command(stage: str, path: Path, found: Changes) -> str:
    settings = [word for key, (_, value) in found.items() for word in ("--set", f"{key}={_word(value)}")]
    return shlex.join(["jstc", stage, str(path), *settings])


def _word(value: object) -> str:
    return value if isinstance(value, str) else show(value)


def _section(key: str) -> str:
    return key.removeprefix("order of ").partition(".")[0]
