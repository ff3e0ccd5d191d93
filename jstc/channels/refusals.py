"""Networks whose forward cannot be followed at all, refused with what to give instead."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from jstc.errors import ChannelError

__all__ = ["require_plain"]


def require_plain(model: nn.Module) -> None:
    """Raise `ChannelError` for scripted, compiled and lazy networks: there is no Python forward to run,
    no module to cut, or no shape yet."""
    for name, module in model.named_modules():
        where = f"'{name}'" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ChannelError(f"{where} is a torch.jit module: give the nn.Module that it was made from")
        # Its class is torch._dynamo's, and importing that takes seconds.
        if type(module).__name__ == "OptimizedModule":
            raise ChannelError(
                f"{where} was compiled by torch.compile: give the module itself, and compile what is cut"
            )
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(parameter):
            raise ChannelError(f"'{name}' is lazy and has no shape yet: run the network once on an example")
