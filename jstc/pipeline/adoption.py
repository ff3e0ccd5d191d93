"""What the run of one budget takes over from the run that searched for several: copies, on its own record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jstc import files
from jstc.pipeline.manifest import Manifest
from jstc.pipeline.run_directory import RunDirectory

__all__ = ["SHARED", "adopt"]

SHARED = ("baseline", "search")
"""The stages that all budgets share."""

_LEFT_BEHIND = ("checkpoint.safetensors", "result.json")  # what only the shared training needs, or is merged


def adopt(parent: Path, child: RunDirectory, *, reset: Callable[[str], None]) -> None:
    """Give `child` the shared stages of the run at `parent` that are done.

    What is there already stays; `reset` is called for a stage of the child that holds something else, and
    has to forget what was built on it. Every file is read whole, so that a copy is never of two searches.
    """
    manifest = Manifest.load(parent)
    assert manifest is not None
    contents = {"baseline": _baseline, "search": _search}
    for stage in SHARED:
        if stage in manifest.stages and manifest.stages[stage].state == "done":
            _take(child, stage, contents[stage](parent, child.path.name), reset)


def _take(
    child: RunDirectory, stage: str, contents: Mapping[str, bytes], reset: Callable[[str], None]
) -> None:
    record = child.record(stage)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    same = record.state == "done" and record.artifacts == hashes
    if same and not child.damaged(stage):
        return
    if not same:
        reset(stage)
    for name, data in contents.items():
        files.write_bytes(child.path / name, data)
    child.finish(stage, [child.path / name for name in contents])


def _baseline(parent: Path, _label: str) -> dict[str, bytes]:
    return _files("baseline", parent / "baseline") | {
        "baseline/result.json": (parent / "baseline" / "result.json").read_bytes()
    }


def _search(parent: Path, label: str) -> dict[str, bytes]:
    shared, own = parent / "search", parent / "search" / label
    result = files.read_json(shared / "result.json")
    figures = result.pop("budgets")
    # The shared training's time: the label's own figures say nothing of it.
    merged = result | files.read_json(own / "result.json") | figures[label] | {"seconds": result["seconds"]}
    return {
        **_files("search", shared),
        **_files("search", own),
        "search/result.json": _as_json(merged | {"shared_by": list(figures)}),
        "target.json": _as_json(_target(parent, label)),
    }


def _target(parent: Path, label: str) -> dict[str, Any]:
    document: dict[str, Any] = files.read_json(parent / "target.json")
    [budget] = [budget for budget in document["budgets"] if budget["label"] == label]
    budget = {key: budget[key] for key in ("metric", "limit", "share")}
    return {key: value for key, value in document.items() if key != "budgets"} | {"budget": budget}


def _files(stage: str, folder: Path) -> dict[str, bytes]:
    """The files that lie directly in `folder`, by their names in the child."""
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return {f"{stage}/{path.name}": path.read_bytes() for path in found if path.name not in _LEFT_BEHIND}


def _as_json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
