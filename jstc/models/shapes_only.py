"""Building networks for their shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["ShapesOnly"]

# What parameters are made of. Not arange, linspace or tensor: constructors read numbers out of those.
_STORAGE = frozenset(("empty", "rand", "randn"))

# In-place operations that initialisers consist of; everything in torch.nn.init is one of them too.
_FILLS = frozenset(
    (
        *("normal_", "uniform_", "fill_", "zero_", "random_", "bernoulli_", "exponential_", "log_normal_"),
        *("erfinv_", "mul_", "div_", "add_", "sub_", "clamp_", "copy_", "constant_", "ones_", "zeros_"),
        *("trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"),
        *("orthogonal_", "eye_", "dirac_", "sparse_"),
    )
)


class ShapesOnly(TorchFunctionMode):
    """While active, uninitialised tensors are made on the meta device, and filling those does nothing.

    Unlike `torch.device("meta")` it lets small tensors be real, because some constructors compute widths
    or indices with them; and unlike it, nothing goes through the Python decomposition of every random
    number that is not drawn, which is most of the time of building a large network there.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let `func` pass, unless it makes or fills what has only a shape."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _FILLS:
            target = args[0] if args else options.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        elif name in _STORAGE and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)
