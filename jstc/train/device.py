"""Where and in which number format the arithmetic happens; compiled networks, where a compiler works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from jstc.core import processes
from jstc.errors import InputError
from jstc.recipe.schema import TrainSettings
from jstc.train import kernels

__all__ = [
    "Numerics",
    "as_input",
    "autocast",
    "autocast_dtype",
    "compiled",
    "device",
    "has_fast_bfloat16",
    "precision",
    "require_compiler",
    "set_threads",
    "to_device",
]

M = TypeVar("M", bound=nn.Module)


def device(name: str) -> torch.device:
    """The device called `auto`, `cpu` or `cuda`; `auto` takes a GPU where there is one.

    Of several processes on a machine each gets the GPU with its number. Raises `InputError` when `cuda` is
    asked for and absent, or when there are too few.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError(f"device 'cuda': {_why_no_cuda()}; use 'cpu', or 'auto' to take what there is")
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name != "cuda":
        return torch.device(name)
    _choose_gpu()
    # With its index, so that it equals the device that tensors report.
    return torch.device("cuda", torch.cuda.current_device())


def _choose_gpu() -> None:
    """Take the GPU with this process's number, where there are several processes on this machine."""
    if not processes.several():
        return
    number, count = processes.local_rank(), torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"{processes.local_world()} processes on a machine with {count} GPUs: each needs its own; start "
            f"torchrun with --nproc-per-node={count}, or train with --device cpu"
        )
    torch.cuda.set_device(number)


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    return "no usable NVIDIA GPU or driver was found"


def set_threads(count: int) -> None:
    """Let torch use `count` CPU threads; 0 leaves torch's own choice."""
    if count:
        torch.set_num_threads(count)


def has_fast_bfloat16(where: torch.device) -> bool:
    """Whether `where` multiplies bfloat16 matrices faster than float32 ones.

    On a CPU that needs instructions for it (AMX or AVX512-BF16): emulated, it is ten times slower.
    """
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch offers no public question for it in the oldest version that we support.
    queries = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return where.type == "cpu" and any(getattr(torch.cpu, query, bool)() for query in queries)


def autocast_dtype(settings: TrainSettings, where: torch.device) -> torch.dtype | None:
    """The number format of the matrix products, or None for plain float32."""
    if settings.precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(where) else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[settings.precision]


def precision(settings: TrainSettings, where: torch.device) -> str:
    """The number format of the matrix products by name, `auto` resolved."""
    return str(autocast_dtype(settings, where) or torch.float32).removeprefix("torch.")


def autocast(where: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """The context for a forward pass on `where`; does nothing when `dtype` is None."""
    return torch.autocast(where.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def to_device(network: M, settings: TrainSettings, where: torch.device) -> M:
    """Move `network` to `where`, in channels-last layout when the settings say so. In place."""
    moved = network.to(where)
    if settings.channels_last:
        moved._apply(_channels_last)  # type: ignore[no-untyped-call]
    return moved


def as_input(images: Tensor, *, channels_last: bool) -> Tensor:
    """`images` [N, C, H, W] in the layout that `to_device` gave the network; same values."""
    return _channels_last(images) if channels_last else images


def _channels_last(tensor: Tensor) -> Tensor:
    # `network.to(memory_format=...)` fails at the first tensor of five dimensions.
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@dataclass(frozen=True)
class Numerics:
    """How a network is called: the number format of its matrix products, and the layout of its images."""

    dtype: torch.dtype | None = None
    """None: plain float32."""
    channels_last: bool = False

    @classmethod
    def of(cls, settings: TrainSettings, where: torch.device) -> Numerics:
        """The recipe's `train.precision` and `train.channels_last` on `where`."""
        return cls(autocast_dtype(settings, where), settings.channels_last)

    def call(self, network: nn.Module, images: Tensor) -> Any:
        """Output of `network` for `images` [N, C, H, W], which may have any layout."""
        images = as_input(images, channels_last=self.channels_last)
        with autocast(images.device, self.dtype), kernels.checked(network, images):
            return network(images)


# Training through torch.compile

_KEPT = 256
"""Compilations of one forward that torch is to keep: by default 8, after which it calls what is not compiled.
A search may have as many widths as rounds, and its finetune calls the same forward."""


def compiled(network: nn.Module) -> Any:
    """`network`, compiled at its first call for exactly the shapes that it meets; the parameters are shared.

    Training batches all have one size, so that is one compilation, or two where accumulation divides them
    unevenly.
    """
    import torch._dynamo.config as dynamo  # the compiler: seconds, which a command without one does not spend

    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(dynamo, name, max(getattr(dynamo, name), _KEPT))
    return torch.compile(network, dynamic=False)


def require_compiler(where: torch.device, *, key: str) -> None:
    """Compile something small on `where`, for the recipe key `key`.

    Raises `InputError` when that does not work here.
    """
    try:
        torch.compile(_double, dynamic=False)(torch.ones(8, device=where))
    except Exception as error:  # whatever a missing compiler, a missing Triton or an unknown Python raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = lines[0] if lines else type(error).__name__
        needed = "a C++ compiler" if where.type == "cpu" else "Triton and a C compiler"
        raise InputError(
            f"{key}: torch.compile does not work here ({told}); on {where.type} it "
            f"needs {needed}: install that, or leave the key out"
        ) from None


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2
