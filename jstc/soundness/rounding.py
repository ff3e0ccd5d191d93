"""How far rounding in float32 takes a network's scores from the exact ones: no comparison can ask for less.

A network can magnify rounding: a batch norm whose running variance is 1e-7 multiplies by a thousand, and so
do several in a row. What is computed in another order, by another runtime, with folded norms or in another
memory layout, then differs by as much, and nothing is wrong.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jstc.channels.trace.memory import duplicate
from jstc.errors import StageError
from jstc.models.outputs import logits

__all__ = ["ROUNDINGS", "Rounding", "Undecided", "plain_scores", "rounding"]

ROUNDINGS = 4.0
"""Two sound computations in float32 may be this many times torch's own rounding apart."""

_CHUNK = 32
_EPSILON = 2.0**-23  # of float32
_ALIKE = 8.0  # times: rounding of one network in two layouts
_ILL = 64 * _EPSILON  # of the largest score; usual networks have 6 to 10


@dataclass(frozen=True)
class Rounding:
    """Rounding of a network on some images, in units of its scores; `largest` is the largest score.

    `error` is the largest difference of a score in float32, contiguous or channels-last, from the one in
    float64. `norm` magnifies most of the network's batch norms: by `gain`, with a running variance of
    `variance`; there may be none.
    """

    error: float
    largest: float
    norm: str | None = None
    gain: float | None = None
    variance: float | None = None

    def limit(self, floor: float) -> float:
        """How far sound computations may be apart, in the scores: `floor`, or more where float32 needs it.

        `floor` alone where the scores are no numbers: nothing explains those.
        """
        if not (math.isfinite(self.error) and math.isfinite(self.largest)):
            return floor
        return max(floor, ROUNDINGS * max(self.error, _EPSILON * self.largest))

    def to_dict(self) -> dict[str, Any]:
        """A JSON document, with `ill_conditioned`."""
        return asdict(self) | {"ill_conditioned": self.ill_conditioned}

    @property
    def ill_conditioned(self) -> bool:
        """Whether rounding is far more than the last digits of the largest score."""
        return math.isfinite(self.error) and self.error > _ILL * self.largest


def rounding(network: nn.Module, images: Tensor) -> Rounding:
    """Rounding of `network` on `images` [N, C, H, W], on the CPU and in evaluation mode; nothing is changed.

    A network that cannot run in float64 is compared with itself in the other memory layout. Raises
    `StageError` when it answers the same images differently when it is asked again: that is no rounding.
    """
    images = images.to("cpu", torch.float32).contiguous()
    plain = duplicate(network).to("cpu", torch.float32).eval()
    plain.to(memory_format=torch.contiguous_format)
    scores, again = plain_scores(plain, images), plain_scores(plain, images)
    largest = scores.abs().max().item()
    _require_repeated(scores, again, largest)
    last: nn.Module = duplicate(plain)._apply(_channels_last)  # type: ignore[no-untyped-call]
    turned = plain_scores(last, _channels_last(images))
    exact = _exact(plain, images)
    found = [scores, turned] if exact is not None else [turned]
    reference = scores.double() if exact is None else exact
    errors = [(one.double() - reference).abs().max().item() for one in found]
    # A layout that is far worse than the other has a kernel that is wrong, and not its rounding.
    error = min(max(errors), _ALIKE * min(errors))
    return Rounding(error, largest, **_steepest(plain))


def _channels_last(tensor: Tensor) -> Tensor:
    # `network.to(memory_format=...)` fails at the first tensor of five dimensions.
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _require_repeated(scores: Tensor, again: Tensor, largest: float) -> None:
    differ = (scores - again).abs().max().item()
    if differ > ROUNDINGS * _EPSILON * largest:  # false for scores that are no numbers
        raise StageError(
            f"the network answers the same images differently when asked again, by up to {differ:.2g} in the "
            "scores",
            "look for randomness or state in its forward in evaluation mode",
        )


def _exact(network: nn.Module, images: Tensor) -> Tensor | None:
    """Scores [N, classes] in float64; None for a forward that insists on another number format."""
    try:
        return plain_scores(duplicate(network).double(), images.double())
    except RuntimeError:
        return None


def _steepest(network: nn.Module) -> dict[str, Any]:
    """The batch norm that magnifies most, as fields of a `Rounding`."""
    found: tuple[float, float, str] | None = None
    for name, module in network.named_modules():
        variance = module.running_var if isinstance(module, _BatchNorm) else None
        if not isinstance(variance, Tensor) or not len(variance):
            continue
        scale = torch.ones_like(variance) if module.weight is None else module.weight.detach().abs()
        gains = scale / (variance + module.eps).sqrt()
        place = int(gains.argmax())
        if found is None or gains[place].item() > found[0]:
            found = (gains[place].item(), variance[place].item(), name)
    return {} if found is None else {"gain": found[0], "variance": found[1], "norm": found[2]}


# Scores of a network in the number format that it has, whatever the caller's settings.


def plain_scores(network: nn.Module, images: Tensor) -> Tensor:
    """Scores [N, classes] of `images` [N, C, H, W], without autocast and with whole products.

    Of several outputs they are those that `models.outputs.logits` names. Raises `StageError` as it does.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return torch.cat([logits(network(chunk)) for chunk in torch.split(images, _CHUNK)])
    finally:
        torch.set_float32_matmul_precision(precision)


class Undecided(nn.Module):
    """`network`, and in `count` how many of the images that it was given have their two best scores `within`.

    Another computation whose scores are at most half as far from these answers all others alike: its number
    of right answers differs by at most `count`.
    """

    def __init__(self, network: nn.Module, *, within: float) -> None:
        super().__init__()
        self.network, self.within = network, within
        self._counts: list[Tensor] = []

    @property
    def count(self) -> int:
        """Such images so far; those whose scores are no numbers are not among them."""
        return int(sum(int(found) for found in self._counts))

    def forward(self, images: Tensor) -> Tensor:
        """Scores [N, classes] of `images` [N, C, H, W]."""
        scores = logits(self.network(images))
        if scores.shape[1] > 1:
            best = scores.float().topk(2, dim=1).values
            self._counts.append((best[:, 0] - best[:, 1] <= self.within).sum())
        return scores
