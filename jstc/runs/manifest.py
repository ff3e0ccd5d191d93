"""The record of a run, manifest.json: what ran, with what, how far it came, the sha256 of every file it left.

Beside it what hangs on the record: which of its files are not what a stage has written.
"""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from jstc._version import __version__
from jstc.core import files
from jstc.errors import JstcError, RunDirectoryError
from jstc.ort import machine

__all__ = [
    "Manifest",
    "StageRecord",
    "State",
    "can_be_recorded",
    "damage_as_input_error",
    "versions",
]

_AWAY = "put back a good copy, or begin a run in another directory (--out of `jstc search` and `jstc run`)"

State = Literal["pending", "running", "done", "failed"]
# Files are deleted by these names: they must not lead out of the run directory.
_StageName = Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_.-]*$")]
_PART = r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]*"
_NAME = rf"^{_PART}(/{_PART})*$"
_Artifact = Annotated[str, Field(pattern=_NAME)]


def can_be_recorded(name: str) -> bool:
    """Whether a file of that name, with slashes, can be an artifact: no part of it is hidden, or odd."""
    return re.fullmatch(_NAME, name) is not None


class StageRecord(BaseModel):
    """How far one stage has come."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    state: State = "pending"
    seconds: Annotated[float, Field(ge=0)] = 0.0
    artifacts: dict[_Artifact, str] = Field(default_factory=dict)


class Manifest(BaseModel):
    """The record of a run.

    `begun_with` has what the search has read of settings that were changed since, by dotted key.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["jstc run"]
    schema_: Annotated[Literal[1], Field(alias="schema")]
    created: str
    command: str
    seed: int
    versions: dict[str, str]
    stages: dict[_StageName, StageRecord]
    begun_with: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def new(cls, command: str, seed: int, stages: Sequence[str]) -> Manifest:
        """The manifest of a run that has not begun."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"kind": "jstc run", "schema": 1, "created": created, "command": command, "seed": seed}
        return cls.model_validate(head | {"versions": versions(), "stages": {s: {} for s in stages}})

    @classmethod
    def load(cls, directory: Path) -> Manifest | None:
        """The manifest in `directory`; None when there is none, or one that is not ours.

        Raises `RunDirectoryError` when it is ours and unreadable.
        """
        path = directory / "manifest.json"
        try:
            document = files.read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{path} cannot be read ({error})", _AWAY) from None
        if not isinstance(document, dict) or document.get("kind") != "jstc run":
            return None
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunDirectoryError(
                f"{path} is damaged or of another version of jstc ({where}: {first['msg']})", _AWAY
            ) from None

    def is_done(self, stage: str) -> bool:
        """Whether a stage has finished."""
        return stage in self.stages and self.stages[stage].state == "done"

    def save(self, directory: Path) -> None:
        """Write the manifest into `directory`."""
        left_out = None if self.begun_with else {"begun_with"}
        document = self.model_dump(mode="json", by_alias=True, exclude=left_out)
        files.write_json(directory / "manifest.json", document)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers of a run."""
    found = machine.versions(machine.PACKAGES_OF_NUMBERS)
    return {"jstc": __version__, "python": platform.python_version(), **found}


# What files of a run cause that hold something else than a stage writes: one message that names them.

_SHOWN = 3


@contextlib.contextmanager
def damage_as_input_error(run: Path) -> Iterator[None]:
    """A block that only reads files of the run at `run`: what they make fail is a `RunDirectoryError`.

    It names those that are no longer what their stage has written, where the record of the run knows.
    """
    try:
        yield
    except (JstcError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever reading `{"flops": []}` as a number leads to
        raise RunDirectoryError(_explanation(run, error)) from error


def _explanation(run: Path, error: Exception) -> str:
    changed = _changed(run)
    if not changed:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        return (
            f"{run} holds something that this version of jstc does not write ({said}); --debug shows where, "
            "and `--fresh` makes a stage write its files again"
        )
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    names = ", ".join(changed[:_SHOWN]) + more
    return f"{names} in {run} was changed since its stage has written it; run that stage again with --fresh"


def _changed(run: Path) -> list[str]:
    with contextlib.suppress(JstcError, OSError):
        manifest = Manifest.load(run)
        records = manifest.stages.values() if manifest else ()
        hashes = {name: sha for record in records for name, sha in record.artifacts.items()}
        return [name for name, sha in hashes.items() if not _is(run / name, sha)]
    return []


def _is(path: Path, sha: str) -> bool:
    return path.is_file() and files.sha256(path) == sha
