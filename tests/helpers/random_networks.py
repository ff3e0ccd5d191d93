"""Networks drawn at random, from a description that can be read and made smaller.

A network is a list of steps on a feature map [N, C, H, W]. A step is a name and two small numbers, which
the step turns into widths, groups or variants that fit the map it is given; steps that hold other steps
(residuals, branches, splits) have a body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.random_layers import LEAVES, Fn

__all__ = ["BLOCKS", "HEADS", "LEAVES", "Description", "Step", "build", "inputs"]

Shape = tuple[int, int, int]


class Step(NamedTuple):
    """One step, by name."""

    kind: str
    a: int = 0
    b: int = 0
    body: tuple[Any, ...] = ()


class Description(NamedTuple):
    """A whole network: `second` is a second input, `head` how the outputs are made."""

    steps: tuple[Step, ...]
    head: str
    second: str = ""
    size: tuple[int, int] = (8, 8)


def _residual(shape: Shape, a: int, b: int, body: Sequence[Step]) -> tuple[nn.Module, Shape]:
    inside, found = build_steps(body, shape)
    match = _to_shape(found, shape)
    join = (
        lambda x, y: x + y,
        lambda x, y: F.relu(y.clone().add_(x)),
        lambda x, y: torch.stack([x, y]).sum(0),
        lambda x, y: x * y.sigmoid(),
        torch.maximum,
        lambda x, y: torch.stack([x, y], 1).mean(1),
    )[a % 6]
    return Fn(
        f"residual {a % 6}", lambda net, x: join(x, net.match(net.body(x))), body=inside, match=match
    ), shape


def _to_shape(found: Shape, wanted: Shape) -> nn.Module:
    convolution = nn.Identity() if found[0] == wanted[0] else nn.Conv2d(found[0], wanted[0], 1)
    if found[1:] == wanted[1:]:
        return convolution
    return nn.Sequential(convolution, nn.Upsample(size=wanted[1:]))


def _branches(shape: Shape, a: int, b: int, body: Sequence[Step]) -> tuple[nn.Module, Shape]:
    """Two paths from one map, concatenated; the first half of the body is one of them."""
    left, l_shape = build_steps(body[: len(body) // 2], shape)
    right, r_shape = build_steps(body[len(body) // 2 :], shape)
    match = nn.Identity() if r_shape[1:] == l_shape[1:] else nn.Upsample(size=l_shape[1:])
    layers = {"left": left, "right": right, "match": match}
    if a % 2:
        made = Fn("branches", lambda net, x: torch.cat([net.match(net.right(x)), net.left(x)], 1), **layers)
        return made, (l_shape[0] + r_shape[0], *l_shape[1:])
    out = (l_shape[0] + r_shape[0] + shape[0], *l_shape[1:])
    resize = nn.Identity() if shape[1:] == l_shape[1:] else nn.Upsample(size=l_shape[1:])

    def dense(net: Any, x: Tensor) -> Any:
        return torch.cat([net.resize(x), net.left(x), net.match(net.right(x))], 1)

    return Fn("dense", dense, resize=resize, **layers), out


def _split(shape: Shape, a: int, b: int, body: Sequence[Step]) -> tuple[nn.Module, Shape]:
    """The channels are taken apart, one part is worked on, and they are put together again."""
    c, h, w = shape
    if c % 2:
        return nn.Identity(), shape
    sizes = [c // 4, c - c // 4] if b % 2 and c >= 8 else [c // 2, c // 2]
    take = (
        lambda x: x.split(sizes, 1) if sizes[0] != sizes[1] else x.split(x.shape[1] // 2, 1),
        lambda x: x.chunk(2, 1) if sizes[0] == sizes[1] else (x[:, : sizes[0]], x[:, sizes[0] :]),
        lambda x: (x[:, : x.shape[1] * sizes[0] // c], x[:, x.shape[1] * sizes[0] // c :]),
    )[b // 2 % 3]
    inside, found = build_steps(body, (sizes[1], h, w))
    layers = {"body": inside, "match": _to_shape(found, (sizes[1], h, w))}

    def joined(net: Any, x: Tensor) -> Any:
        left, right = take(x)
        return torch.cat([net.match(net.body(right.clone())), left], 1)

    def gated(net: Any, x: Tensor) -> Any:
        left, right = take(x)
        return left * net.match(net.body(right.clone())).sigmoid()

    if a % 2 and sizes[0] == sizes[1]:
        return Fn(f"gated {b // 2 % 3}", gated, **layers), (c // 2, h, w)
    return Fn(f"split {sizes} {b // 2 % 3}", joined, **layers), shape


BLOCKS = {"residual": _residual, "branches": _branches, "split": _split}
HEADS = ("pooled", "positions", "grid", "tokens", "several", "dictionary", "map")


def build_steps(steps: Sequence[Step], shape: Shape) -> tuple[nn.Module, Shape]:
    """The steps one after another, and the shape [C, H, W] behind them."""
    modules = []
    for step in steps:
        if step.kind in BLOCKS:
            module, shape = BLOCKS[step.kind](shape, step.a, step.b, step.body)
        else:
            module, shape = LEAVES[step.kind](shape, step.a, step.b)
        modules.append(module)
        if shape[0] > 48:  # dense branches grow
            modules.append(nn.Conv2d(shape[0], 16, 1))
            shape = (16, *shape[1:])
    return nn.Sequential(*modules), shape


class Network(nn.Module):
    """Stem, steps and head of a description."""

    def __init__(self, description: Description) -> None:
        super().__init__()
        (height, width), self.head, self.second = description.size, description.head, description.second
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        if self.second:
            self.other = nn.Conv2d(2, 8, 1)
        shape = (16 if self.second == "cat" else 8, height, width)
        self.body, (c, h, w) = build_steps(description.steps, shape)
        flat = {"positions": c * h * w, "grid": 4 * c}.get(self.head, c)
        self.out = nn.Conv2d(c, 5, 1) if self.head == "map" else nn.Linear(flat, 5)
        if self.head in ("several", "dictionary"):
            self.aux = nn.Conv2d(shape[0], 4, 1)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Any:  # noqa: PLR0911 - one for every head
        x = self.stem(x)
        if self.second:
            y = self.other(other)
            x = torch.cat([x, y], 1) if self.second == "cat" else x + y
        y = self.body(x)
        if self.head == "map":
            return self.out(y)
        if self.head == "positions":
            return self.out(y.flatten(1))
        if self.head == "grid":
            return self.out(torch.flatten(F.adaptive_avg_pool2d(y, 2), 1))
        if self.head == "tokens":
            return self.out(y.flatten(2).transpose(1, 2)).mean(1)
        out = self.out(y.mean((2, 3)))
        if self.head == "several":
            return out, [self.aux(x).amax((2, 3))]
        if self.head == "dictionary":
            return {"out": out, "aux": self.aux(x)}
        return out


def build(description: Description) -> nn.Module:
    """The network in float64 and eval mode; norms, statistics and biases are no two alike."""
    network = Network(description)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        norm = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)
        if norm and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.normal_(module.bias, 0.1, 0.2)
    return network.double().eval()


def inputs(description: Description, batch: int) -> tuple[Tensor, ...]:
    """Images, and the second input where there is one."""
    height, width = description.size
    images = (torch.randn(batch, 3, height, width, dtype=torch.float64),)
    if description.second:
        return (*images, torch.randn(batch, 2, height, width, dtype=torch.float64))
    return images
