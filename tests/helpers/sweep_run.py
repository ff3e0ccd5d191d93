"""The run directory of two budgets, made of the documents of a run with one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

HEAD = "model: resnet20\ndataset: digits\nseed: 3\nbaseline: true\n"
BUDGETS: list[dict[str, Any]] = [
    {"label": "flops0.7", "metric": "flops", "limit": 28_700_000, "share": 0.7},
    {"label": "flops0.5", "metric": "flops", "limit": 20_500_000, "share": 0.5},
]
SMALLER = {
    "flops": 20_400_000,
    "params": 100_000,
    "accuracy": 0.98,
    "max_abs_diff_fold": 3e-7,
    "seconds": 1.5,
}


def write_sweep(run: Path, contents: dict[str, Any]) -> Path:
    """Write a finished run of `BUDGETS` into a directory."""
    shared = {
        name: contents[name] for name in ("manifest.json", "baseline/result.json", "search/result.json")
    }
    target = {key: value for key, value in contents["target.json"].items() if key != "budget"}
    _write(run, shared | {"target.json": target | {"budgets": BUDGETS}}, HEAD + "flops: [0.7, 0.5]\n")
    for budget, slim in zip(BUDGETS, ({}, SMALLER), strict=True):
        own = copy.deepcopy(contents)
        own["slim/result.json"] |= slim
        own["target.json"]["budget"] = {key: budget[key] for key in ("metric", "limit", "share")}
        _write(run / budget["label"], own, HEAD + f"flops: {budget['share']}\n")
    return run


def _write(directory: Path, contents: dict[str, Any], recipe: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.yaml").write_text(recipe)
    for name, document in contents.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
