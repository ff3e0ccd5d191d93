"""Which of a network's outputs are the class scores: one rule for training, evaluation, export and timing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from jstc.errors import OTHER_TASKS, StageError

__all__ = ["ScoresOnly", "described", "logits", "way_to_scores"]

_NAME = "logits"
_MOST = 6  # outputs named in a message


def logits(output: object) -> Tensor:
    """The class scores in what a network returned: a tensor, alone or in what holds several.

    That is what is called `logits` in an object or a mapping, the only value of a mapping without such a
    name, and the first of a tuple or list otherwise. Raises `StageError` where there is no such tensor.
    """
    found = output
    while not isinstance(found, Tensor):
        inner = _main(found)
        if inner is None:
            raise StageError(
                f"the network returned {described(output)}; expected class scores [N, classes]",
                f"return them alone, first in a tuple, or with the name 'logits'; {OTHER_TASKS}",
            )
        found = inner
    return found


def _main(output: object) -> object:
    """The part of an output that has the scores; None where none can be told from the others."""
    if isinstance(output, Mapping):
        only = next(iter(output.values())) if len(output) == 1 else None
        return output.get(_NAME, only)
    if hasattr(output, _NAME):
        return getattr(output, _NAME)
    return output[0] if isinstance(output, tuple | list) and output else None


def described(output: object) -> str:
    """What a forward gave, in words: the type, and the names and shapes of what is in it."""
    if isinstance(output, Tensor):
        return str(list(output.shape))
    kind = type(output).__name__
    parts = [f"{name}: {_short(value)}" if name else _short(value) for name, value in _parts(output)]
    more = f" and {len(parts) - _MOST} more" if len(parts) > _MOST else ""
    return f"{kind} ({', '.join(parts[:_MOST])}{more})" if parts else kind


def way_to_scores(output: object, shape: tuple[int, ...], classes: int) -> str:
    """How a forward of two images gives class scores, where that is a line of code; empty if it is more."""
    if shape[:2] == (2, classes) and all(size == 1 for size in shape[2:]):
        return "end the forward with .flatten(1)"
    if classes == 2 and shape in ((2,), (2, 1)):
        column = "x" if shape == (2, 1) else "x[:, None]"
        return (
            f"that is the score x of a sigmoid: return torch.cat([torch.zeros_like({column}), {column}], 1), "
            "two scores with the same answers"
        )
    places = _with_shape(output, (2, classes))
    return f"return {places[0]} of these alone, or first, or call it logits" if len(places) == 1 else ""


def _with_shape(output: object, shape: tuple[int, ...]) -> list[str]:
    """Which tensors of what a forward gave have this shape: their names, or their places."""
    return [
        f"'{name}'" if name else f"number {at}"
        for at, (name, value) in enumerate(_parts(output), 1)
        if isinstance(value, Tensor) and value.shape == shape
    ]


def _parts(output: Any) -> Sequence[tuple[str, object]]:
    if isinstance(output, Mapping):
        return [(str(name), value) for name, value in output.items()]
    if dataclasses.is_dataclass(output):
        return [(field.name, getattr(output, field.name, None)) for field in dataclasses.fields(output)]
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", ("",) * len(output))
        return list(zip(names, output, strict=True))
    return []


def _short(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


class ScoresOnly(nn.Module):
    """A network that gives its class scores [N, classes] and nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Scores [N, classes] of `images` [N, C, H, W]."""
        return logits(self.network(images))
