"""Verdicts on calls: found by trying, and kept in the cache of this machine's user, one file a setting."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import torch

from jstc.core import files
from jstc.errors import DiskFullError
from jstc.ort import machine
from jstc.train.kernels import judge
from jstc.train.kernels.calls import Call
from jstc.train.kernels.forms import Form

__all__ = ["Setting", "Verdict", "judged", "read", "save"]

_FORMAT = 1
_LOCK_SECONDS = 60
_MOST_KEPT = 10_000
"""Every search has shapes of its own, and all are read and written: so many in a fifth of a second."""
_NO_CACHE = (OSError, RuntimeError, DiskFullError, filelock.Timeout)
"""A folder that may not be written, a full disk, a user without a home, a file system without locks."""
_VARIABLES = ("ONEDNN_", "DNNL_", "ATEN_", "MKL_")
"""Names of environment variables that libraries choose kernels by begin so."""


@dataclass(frozen=True)
class Setting:
    """What verdicts belong to; every one has a file of its own.

    `build` is a digest of how torch was built, oneDNN's version included.
    """

    processor: str
    flags: tuple[str, ...]
    torch: str
    build: str
    threads: int
    onednn: bool
    float32: str
    variables: tuple[tuple[str, str], ...]

    @classmethod
    def here(cls) -> Setting:
        """The setting of this process, now."""
        onednn = torch._C._has_mkldnn and torch._C._get_mkldnn_enabled()
        return _setting(torch.get_num_threads(), bool(onednn), torch.get_float32_matmul_precision())

    @property
    def path(self) -> Path:
        """The file of its verdicts."""
        text = json.dumps(asdict(self), sort_keys=True)
        return files.cache_folder() / "kernels" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


@cache  # it is asked for in every step
def _setting(threads: int, onednn: bool, float32: str) -> Setting:
    return Setting(
        machine.processor(gpu=False),
        tuple(machine.flags() or ()),
        torch.__version__,
        hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:16],
        threads,
        onednn,
        float32,
        tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_VARIABLES))),
    )


@dataclass(frozen=True)
class Verdict:
    """Result of judging a call: what is wrong with it, and the form in which it is right (None: as it is)."""

    wrong: Mapping[str, float] = field(default_factory=dict)
    form: Form | None = None


def judged(call: Call, batch: int) -> Verdict:
    """The verdict on a call that is made with `batch` images at a time: it is tried, here and now."""
    images = judge.num_images(call, batch)
    wrong = judge.faults(call, None, images)
    if not wrong:
        return Verdict()
    forms = _forms(call)
    right = (form for form in forms if not judge.faults(call, form, images))
    return Verdict(wrong, next(right, forms[-1]))


def _forms(call: Call) -> list[Form]:
    """Other forms, the nearest first; the last is torch's plainest code."""
    wide = call.dtype if call.dtype == "float64" else "float32"
    forms = [Form(wide, call.channels_last), Form(wide), Form(wide, onednn=False)]
    own = Form(call.dtype, call.channels_last)
    return [form for form in dict.fromkeys(forms) if form != own] + [Form("float64", onednn=False)]


# The verdicts on file


def read(setting: Setting) -> dict[str, Verdict]:
    """Verdicts on file by the calls' keys; none where the file is damaged, or of another setting."""
    try:
        found = files.read_json(setting.path)
        if found["format"] != _FORMAT or found["setting"] != json.loads(json.dumps(asdict(setting))):
            return {}
        return {str(key): _verdict(entry) for key, entry in found["verdicts"].items()}
    except (*_NO_CACHE, KeyError, ValueError, TypeError, AttributeError):
        return {}


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    wrong, form = entry["wrong"], entry["form"]
    if form is None:
        if wrong:
            raise ValueError("a fault without another form")
        return Verdict()
    chosen = Form(str(form["dtype"]), bool(form["channels_last"]), bool(form["onednn"]))
    if chosen.dtype not in ("float32", "float64"):
        raise ValueError("no form of ours")
    return Verdict({str(part): float(size) for part, size in wrong.items()}, chosen)


def save(setting: Setting, verdicts: dict[str, Verdict]) -> None:
    """Put `verdicts` on file, and those of other processes into `verdicts`; the newest ones are kept.

    No training ends where that is not possible: they are found again the next time.
    """
    try:
        path = setting.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            known = read(setting)
            newest = list((known | verdicts).items())[-_MOST_KEPT:]
            for key, verdict in known.items():
                verdicts.setdefault(key, verdict)
            entries = {key: _entry(verdict) for key, verdict in newest}
            files.write_json(path, {"format": _FORMAT, "setting": asdict(setting), "verdicts": entries})
    except _NO_CACHE:
        return


def _entry(verdict: Verdict) -> dict[str, Any]:
    # JSON has no infinity.
    wrong = {part: min(size, 1e300) for part, size in verdict.wrong.items()}
    return {"wrong": wrong, "form": None if verdict.form is None else asdict(verdict.form)}
