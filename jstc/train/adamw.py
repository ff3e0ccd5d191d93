"""AdamW for a network whose parts have been trained unequally often."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["PartialAdamW"]


class PartialAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) in which every element of a parameter counts its own steps.

    Not torch's, which has one count for a parameter: channels that a search cuts out and puts back have been
    trained unequally often, and the correction of an average that started at zero depends on how often
    (Kingma and Ba 2015, section 3). Where all counts are equal the two are the same. The state of a parameter
    is `exp_avg`, `exp_avg_sq` and `step`, each of its shape, there from the start as zeros.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for tensor in group["params"]:
                names = ("exp_avg", "exp_avg_sq", "step")
                self.state[tensor] = {name: torch.zeros_like(tensor, requires_grad=False) for name in names}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group in self.param_groups:
            tensors = [tensor for tensor in group["params"] if tensor.grad is not None]
            if tensors:
                self._step(tensors, group)

    def _step(self, tensors: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        first, second, counts = ([self.state[t][name] for t in tensors] for name in self._names)
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(tensors, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(counts, 1)
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        scale = torch._foreach_div(second, _correction(beta2, counts))
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_mul_(scale, _correction(beta1, counts))
        torch._foreach_addcdiv_(tensors, first, scale, -group["lr"])

    _names = ("exp_avg", "exp_avg_sq", "step")


def _correction(beta: float, counts: list[Tensor]) -> tuple[Tensor, ...]:
    """What an average that started at zero is too small by, after so many steps."""
    powers = torch._foreach_pow(beta, counts)
    torch._foreach_neg_(powers)
    torch._foreach_add_(powers, 1.0)
    return tuple(powers)
