"""FLOPs and parameters as fvcore counts them: the second opinion on our own cost model."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from jstc.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from jstc.channels import Cost

__all__ = ["count", "require_equal"]


def count(network: nn.Module, example_input: Tensor) -> tuple[int, int]:
    """FLOPs for one example and parameters, by fvcore. One multiply-add is one FLOP."""
    from torch.jit._trace import TracerWarning  # what torch.jit.TracerWarning is, for type checkers

    with warnings.catch_warnings():
        # fvcore traces with torch.jit, which torch has begun to call deprecated.
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=category)
        warnings.filterwarnings("ignore", category=TracerWarning)
        from fvcore.nn import FlopCountAnalysis, parameter_count

        analysis = FlopCountAnalysis(network.eval(), (example_input,))
        analysis.set_op_handle("aten::_convolution_mode", _named_padding)
        # What fvcore does not count (norms excepted), our cost model does not count either.
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        return int(analysis.total()), int(parameter_count(network)[""])


def _named_padding(inputs: list[Any], outputs: list[Any]) -> int:
    """A convolution with padding="same" or "valid": fvcore counts it under its other name only."""
    from fvcore.nn.jit_handles import conv_flop_count, get_shape

    return int(conv_flop_count(get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0])))


def require_equal(name: str, network: nn.Module, example_input: Tensor, cost: Cost) -> None:
    """Raise `StageError` unless fvcore counts exactly what the cost model says."""
    flops, params = count(network, example_input)
    if (flops, params) != (cost.flops, cost.params):
        raise StageError(
            f"the counts of the {name} network disagree: fvcore finds {flops:,} FLOPs and {params:,} "
            f"parameters, the cost model {cost.flops:,} and {cost.params:,}; this is a fault of jstc"
        )
