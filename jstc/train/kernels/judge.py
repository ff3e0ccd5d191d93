"""Whether a call is computed right: compared with float64 and with itself, forward and backward.

What is compared is the output, and the gradients of input, weight and bias, on random numbers that the number
format can hold exactly. Let u be half the distance from 1 to the next number of the format (Higham, Accuracy
and Stability of Numerical Algorithms, 2002, section 2.1). A kernel that sums up in float32 or better and
rounds the result errs by u times the value; one that rounds partial sums, too, by u times what these are,
which is about the root mean square of the tensor, times the root of their number. So an error is wrong above
16 u (|value| + root mean square). Sums in float32 itself, of up to a million terms, err by the root of their
number times u: a thousand times as much is allowed there, still less than a missing part of a sum.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor

from jstc.core import files
from jstc.errors import DiskFullError
from jstc.ort import machine
from jstc.train import seeds
from jstc.train.kernels.calls import Call, Form, Operands, run

__all__ = ["Setting", "Verdict", "faults", "judged", "num_images", "read", "save"]


PARTS = ("output", "gradient of the input", "gradient of the weight", "gradient of the bias")
REPEATED = "the same twice"

_LIMITS = {"bfloat16": 2.0**-5, "float16": 2.0**-7, "float32": 2.0**-10, "float64": 2.0**-39}
_ZERO = 2.0**-20
"""What may stand, relative to the root mean square, where the right value is exactly zero."""
_DISTINCT = 2
_WORK = 2e8
"""Multiply-adds of a forward, and so some hundredths of a second for all that is compared."""
_NUMBERS = 1e6


def num_images(call: Call, batch: int) -> int:
    """How many images to judge a call with: the training's, or as many of them as take a moment."""
    outputs, inside = math.prod(call.output), math.prod(call.weight[1:])
    work, numbers = outputs * inside, max(outputs, math.prod(call.input))
    if call.transposed:
        work = math.prod(call.input) * inside
    work = max(work, 1)  # an output of no positions is torch's to refuse
    return max(min(batch, int(_WORK / work), int(_NUMBERS / numbers)), min(batch, _DISTINCT))


def faults(call: Call, form: Form | None, images: int) -> dict[str, float]:
    """Faults of the call in `form` (None: as torch would compute it), for so many images.

    By part the greatest error, relative to the part's root mean square; infinite for what is not finite. Of
    a call that is computed right: nothing. Leaves torch's random state as it was.
    """
    # Whoever is at work around us may be in evaluation, in inference or in autocast.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        base = _operands(call, min(images, _DISTINCT))
        operands = _many(call, base, images)
        with _dirty_memory():
            first = _results(call, form, operands)
            second = _results(call, form, operands)
        wanted = _right(call, base, images, gradient=_gradient(call, first[0]))
        found: dict[str, float] = {}
        # What leaves a form is rounded to the call's number format; gradients are the training's, in float32.
        inside = form.dtype if form else call.dtype
        for part, got, want in zip(PARTS, first, wanted, strict=False):
            error = _error(got, want, _LIMITS[call.dtype if part == PARTS[0] else inside])
            if error is not None:
                found[part] = error
        if not found and not all(map(torch.equal, first, second)):
            found[REPEATED] = max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))
    return found


def _operands(call: Call, images: int) -> Operands:
    """Random input, weight and bias, exact in the call's number format, as leaves."""
    shapes = [(images, *call.input), call.weight]
    if call.bias:
        shapes.append((call.channels,))
    source = seeds.generator(0, "kernels", call.key)
    found = [_rounded(call, torch.randn(shape, generator=source)) for shape in shapes]
    return found[0], found[1], found[2] if call.bias else None


def _rounded(call: Call, tensor: Tensor) -> Tensor:
    kept = torch.float64 if call.precision == torch.float64 else torch.float32
    return tensor.to(call.precision).to(kept)


def _many(call: Call, base: Operands, images: int) -> Operands:
    """The operands with the images over and over up to `images`, in the call's layout."""
    x, weight, bias = base
    return _laid(call, _repeated(x, images)), _laid(call, weight), bias


def _repeated(tensor: Tensor, images: int) -> Tensor:
    return tensor[torch.arange(images) % len(tensor)]


def _laid(call: Call, tensor: Tensor) -> Tensor:
    # Not `contiguous`: where both layouts fit, that leaves the strides, which torch chooses by.
    layout = torch.channels_last if call.channels_last and tensor.dim() == 4 else torch.contiguous_format
    return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=layout).copy_(tensor)


def _gradient(call: Call, output: Tensor) -> Tensor:
    """A gradient of the first images' outputs, random and exact in the call's number format."""
    shape = (min(len(output), _DISTINCT), *output.shape[1:])
    return _rounded(call, torch.randn(shape, generator=seeds.generator(1, "kernels", call.key)))


class _Seeded(torch.autograd.Function):
    """A number whose gradient in the output is the given one; torch's own way loads its compiler."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient, None


def _results(call: Call, form: Form | None, operands: Operands) -> list[Tensor]:
    """Output and gradients of the call as a training has it."""
    leaves = [tensor.detach().requires_grad_() for tensor in operands if tensor is not None]
    given = (leaves[0], leaves[1], leaves[2] if call.bias else None)
    output = call.native(given) if form is None else run(call, form, given)
    gradient = _laid(call, _repeated(_gradient(call, output), len(output)).to(output.dtype))
    return [output.detach(), *torch.autograd.grad(_Seeded.apply(output, gradient), leaves)]


def _right(call: Call, base: Operands, images: int, *, gradient: Tensor) -> list[Tensor]:
    """Output and gradients in float64: of the first images, and of all of them for weight and bias."""
    leaves = [tensor.double().requires_grad_() for tensor in base if tensor is not None]
    given = (leaves[0], leaves[1], leaves[2] if call.bias else None)
    output = run(_double(call), Form("float64", onednn=False), given)
    number = len(gradient)
    times = torch.tensor([len(range(first, images, number)) for first in range(number)], dtype=torch.float64)
    times = times.view(-1, *[1] * (output.dim() - 1))
    seeded = _Seeded.apply(output, gradient.double() * times)
    of_input, *others = torch.autograd.grad(seeded, leaves)
    return [output.detach(), of_input / times.view(-1, *[1] * (of_input.dim() - 1)), *others]


def _double(call: Call) -> Call:
    return Call(**{**call.__dict__, "dtype": "float64", "channels_last": False})


def _error(got: Tensor, want: Tensor, limit: float) -> float | None:
    """The greatest error relative to the root mean square of `want`; None where every value is right."""
    scale = want.square().mean().sqrt()
    allowed = torch.where(want == 0, _ZERO * scale, limit * (want.abs() + scale))
    worst, wrong = 0.0, False
    step = len(want)
    for start in range(0, len(got), step):  # images repeat; weights are there once
        part = got[start : start + step].double()
        error = (part - want[: len(part)]).abs()
        wrong |= not bool((error <= allowed[: len(part)]).all())
        worst = max(worst, float(torch.nan_to_num(error, nan=math.inf, posinf=math.inf).max()))
    if not wrong:
        return None
    return worst / float(scale) if float(scale) > 0 and math.isfinite(worst) else math.inf


# Kernels that read what they never wrote are right as long as memory is empty.

_M_PERTURB = -6  # malloc.h of glibc
_FILL = 0x80  # so that memory is full of 0x7f, which is 3.4e38 in float32 and in bfloat16


@contextmanager
def _dirty_memory() -> Iterator[None]:
    """Have the C library fill what it gives out, where it is one that can: glibc, on Linux."""
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_M_PERTURB, _FILL)
    try:
        yield
    finally:
        usual = os.environ.get("MALLOC_PERTURB_", "")
        mallopt(_M_PERTURB, int(usual) if usual.isdecimal() else 0)


def _mallopt() -> Any:
    if os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None), "mallopt", None)


# Verdicts on calls: found by trying, and kept in the cache of this machine's user, one file a setting.


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
    images = num_images(call, batch)
    wrong = faults(call, None, images)
    if not wrong:
        return Verdict()
    forms = _forms(call)
    right = (form for form in forms if not faults(call, form, images))
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
