"""Lists of facts: the machine, the software, and what a run is made again with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jstc.report import figures

__all__ = ["artifacts", "environment", "seconds"]

_LABELS = {
    "cpu": "CPU", "cores": "cores", "memory_gb": "memory", "gpus": "GPU", "driver": "driver",
    "os": "operating system", "python": "Python", "providers": "onnxruntime providers",
    "packages": "packages",
}  # fmt: skip


def environment(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The machine and the software of the measurements, whatever is on record of them."""
    known = [key for key in _LABELS if key in found]
    others = [key for key in found if key not in _LABELS]
    told = ((_LABELS.get(key, key.replace("_", " ")), _text(key, found[key])) for key in (*known, *others))
    return [(label, text) for label, text in told if text]


def seconds(found: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """How long the stages took."""
    return [(name, figures.duration(taken)) for name, taken in found.items() if taken is not None]


def _text(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        if "name" in value:
            rest = ", ".join(
                f"{key} {one}" for key, one in value.items() if key != "name" and one is not None
            )
            return f"{value['name']} ({rest})" if rest else str(value["name"])
        between = ": " if key == "providers" else " "
        return ", ".join(f"{name}{between}{_text(str(name), one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_text(key, one) for one in value) or ("none found" if key == "gpus" else "")
    if value is None:
        return "not known"
    return f"{value} GB" if key == "memory_gb" else str(value)


def artifacts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The files that leave the run, with their SHA-256."""
    stages = manifest.get("stages") or {}
    found = [(stages.get(name) or {}).get("artifacts") or {} for name in ("slim", "export")]
    named = ((str(path), _sha256(entry)) for part in found for path, entry in part.items())
    return [(path, digest) for path, digest in named if digest]


def _sha256(entry: object) -> str:
    digest = entry.get("sha256") if isinstance(entry, Mapping) else entry
    return digest if isinstance(digest, str) else ""
