"""manifest.json: what ran, with what, how far it came, and the sha256 of every file it left."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import jstc
from jstc import files
from jstc.errors import RunDirectoryError

__all__ = ["Manifest", "StageRecord", "State", "versions"]

_PACKAGES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "fvcore",
    "numpy", "safetensors", "timm",
)  # fmt: skip

_AWAY = "put back a good copy, or begin a run in another directory (--out of `jstc search` and `jstc run`)"

State = Literal["pending", "running", "done", "failed"]
# Files are deleted by these names: they must not lead out of the run directory.
_StageName = Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_.-]*$")]
_Artifact = Annotated[str, Field(pattern=r"^[^./\\:][^/\\:]*(/[^./\\:][^/\\:]*)*$")]


class StageRecord(BaseModel):
    """How far one stage has come."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    state: State = "pending"
    seconds: Annotated[float, Field(ge=0)] = 0.0
    artifacts: dict[_Artifact, str] = Field(default_factory=dict)


class Manifest(BaseModel):
    """The record of a run."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["jstc run"]
    schema_: Annotated[Literal[1], Field(alias="schema")]
    created: str
    command: str
    seed: int
    versions: dict[str, str]
    stages: dict[_StageName, StageRecord]

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
            raise RunDirectoryError(f"{path} cannot be read ({error}); {_AWAY}") from None
        if not isinstance(document, dict) or document.get("kind") != "jstc run":
            return None
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunDirectoryError(
                f"{path} is damaged or of another version of jstc ({where}: {first['msg']}); {_AWAY}"
            ) from None

    def save(self, directory: Path) -> None:
        """Write the manifest into `directory`."""
        files.write_json(directory / "manifest.json", self.model_dump(mode="json", by_alias=True))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers of a run."""
    found = {"jstc": jstc.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
