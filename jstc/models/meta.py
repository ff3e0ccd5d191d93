"""Building networks for their shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["without_initialisation"]

# In-place operations that initialisers consist of; everything in torch.nn.init is one of them too.
_FILLS = frozenset(
    (
        *("normal_", "uniform_", "fill_", "zero_", "random_", "bernoulli_", "exponential_", "log_normal_"),
        *("erfinv_", "mul_", "div_", "add_", "sub_", "clamp_", "copy_", "constant_", "ones_", "zeros_"),
        *("trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"),
        *("orthogonal_", "eye_", "dirac_", "sparse_"),
    )
)


class without_initialisation(TorchFunctionMode):  # noqa: N801 - used as a context manager
    """While active, filling a tensor on the meta device does nothing.

    There is nothing to fill; yet torch goes through a Python decomposition for every random number
    that is not drawn, which takes most of the time of building a large network on that device.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let `func` pass unless it only fills its first argument, a meta tensor."""
        if getattr(func, "__name__", "") in _FILLS:
            target = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return func(*args, **(kwargs or {}))
