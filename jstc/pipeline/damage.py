"""What files of a run cause that hold something else than a stage writes: one message that names them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jstc import files
from jstc.errors import JstcError, RunDirectoryError
from jstc.pipeline.manifest import Manifest

__all__ = ["explained"]

_SHOWN = 3


@contextlib.contextmanager
def explained(run: Path) -> Iterator[None]:
    """While files of the run at `run` are only read: what they make fail is a `RunDirectoryError`.

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
