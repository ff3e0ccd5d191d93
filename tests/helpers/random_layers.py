"""Single steps of random networks: from a shape and two small numbers to a layer and the shape behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LEAVES", "Fn", "Shape"]

WIDTHS = (4, 6, 8, 12, 16)
Shape = tuple[int, int, int]


class Fn(nn.Module):
    """Layers, and what to do with them and an input."""

    def __init__(self, name: str, function: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.name, self.function = name, function
        for key, layer in layers.items():
            setattr(self, key, layer)

    def forward(self, *x: Any) -> Any:
        return self.function(self, *x)

    def extra_repr(self) -> str:
        return self.name


class Norm2d(nn.Module):
    """A norm over the last dimension, for maps."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Self-attention on tokens [N, L, C]; `form` is how the heads are taken apart."""

    def __init__(self, dim: int, num_heads: int, form: int) -> None:
        super().__init__()
        self.num_heads, self.form, self.scale = num_heads, form, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=form % 2 == 0), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        if self.form < 2:
            q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            parts = self.qkv(x).chunk(3, dim=-1)
            q, k, v = (p.reshape(n, length, self.num_heads, -1).transpose(1, 2) for p in parts)
        if self.form in (0, 3):
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(n, length, -1))


# -- steps: (shape, a, b) -> (module, new shape) --------------------------------------------------------


def _divisor(number: int, choice: int) -> int:
    """1, 2 or 4, or the number itself, where that divides it."""
    wanted = (1, 2, 4, number)[choice % 4]
    return wanted if number % wanted == 0 else 1


def _conv(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    (c, h, w), out, kernel = shape, WIDTHS[a % 5], (1, 3)[b % 2]
    groups = _divisor(c, b // 4)
    groups = groups if out % groups == 0 else 1
    return nn.Conv2d(c, out, kernel, padding=kernel // 2, groups=groups, bias=b // 2 % 2 == 0), (out, h, w)


def _strided(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    c, h, w = shape
    if min(h, w) < 4:
        return _conv(shape, a, b)
    conv = nn.Conv2d(c, WIDTHS[a % 5], 3, stride=2, padding=1, bias=b % 2 == 0)
    return conv, (WIDTHS[a % 5], (h + 1) // 2, (w + 1) // 2)


def _depthwise(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    (c, h, w), times = shape, 1 + a % 2 * (shape[0] <= 16)
    conv = nn.Conv2d(c, c * times, 3, padding=1 + b % 2, dilation=1 + b % 2, groups=c, bias=b // 2 % 2 == 0)
    return conv, (c * times, h, w)


def _transposed(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    (c, h, w), out = shape, WIDTHS[a % 5]
    groups = _divisor(c, b // 2)
    groups = groups if out % groups == 0 else 1
    conv = nn.ConvTranspose2d(c, out, 2, stride=2, groups=groups, bias=b % 2 == 0)
    return nn.Sequential(conv, nn.AvgPool2d(2)), (out, h, w)


def _norm(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    c, h, w = shape
    groups = _divisor(c, b)
    made = (
        lambda: nn.BatchNorm2d(c),
        lambda: nn.BatchNorm2d(c, affine=False),
        lambda: nn.InstanceNorm2d(c, affine=b % 2 == 0, track_running_stats=b // 2 % 2 == 0),
        lambda: nn.GroupNorm(groups, c),
        lambda: nn.GroupNorm(1, c, affine=False),
        lambda: Norm2d(nn.LayerNorm(c, elementwise_affine=b % 2 == 0)),
        lambda: Norm2d(nn.RMSNorm(c)),
        lambda: nn.LayerNorm([c, h, w]),
    )
    return made[a % 8](), shape


def _activation(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    made = (
        lambda: nn.ReLU(inplace=b % 2 == 1),
        nn.GELU,
        lambda: nn.SiLU(inplace=b % 2 == 1),
        nn.Hardswish,
        lambda: nn.PReLU(1 if b % 2 else shape[0]),
        nn.Sigmoid,
        nn.Softplus,
        lambda: nn.LeakyReLU(0.1),
        nn.ELU,
        nn.Mish,
    )
    return made[a % 10](), shape


def _excite(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    c, middle = shape[0], WIDTHS[a % 3]
    if b % 2:
        layers = {"down": nn.Conv2d(c, middle, 1), "up": nn.Conv2d(middle, c, 1)}

        def function(net: Any, x: Tensor) -> Any:
            return x * net.up(F.relu(net.down(x.mean((2, 3), keepdim=True)))).sigmoid()
    else:
        layers = {"down": nn.Linear(c, middle), "up": nn.Linear(middle, c)}

        def function(net: Any, x: Tensor) -> Any:
            gate = net.up(F.relu(net.down(F.adaptive_avg_pool2d(x, 1).flatten(1)))).sigmoid()
            return x * gate[:, :, None, None] if b // 2 % 2 else x * gate.view(len(x), -1, 1, 1)

    return Fn("excite", function, **layers), shape


def _scale(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    c, h, w = shape
    if a % 3 == 0:
        scale = nn.Parameter(torch.randn(c))
        return Fn("scale", lambda net, x: x * net.scale.view(1, -1, 1, 1), scale=scale), shape
    if a % 3 == 1:
        scale = nn.Parameter(torch.randn(c, 1, 1))
        return Fn("scale", lambda net, x: net.scale * x, scale=scale), shape
    shift = nn.Parameter(torch.randn(1, c, h, w))
    return Fn("position", lambda net, x: x + net.shift, shift=shift), shape


def _shuffle(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    groups = _divisor(shape[0], 1 + a)

    def by_views(net: Any, x: Tensor) -> Any:
        n, c, h, w = x.shape
        return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    made = (Fn(f"shuffle {groups}", by_views), nn.ChannelShuffle(groups))
    return made[b % 2], shape


def _pixels(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    c, h, w = shape
    if a % 2 and c % 4 == 0 and h <= 8:
        return nn.PixelShuffle(2), (c // 4, h * 2, w * 2)
    if h % 2 == 0 and w % 2 == 0 and min(h, w) >= 4 and c <= 12:
        return nn.PixelUnshuffle(2), (4 * c, h // 2, w // 2)
    return nn.Identity(), shape


def _space(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    """Operations on space alone, which leave the size as it is."""
    _, h, w = shape
    made = (
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2, mode=("nearest", "bilinear")[b % 2]), 2),
        lambda x: F.interpolate(F.avg_pool2d(x, 2), size=(h, w)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode=("constant", "reflect", "replicate")[b % 3])[:, :, 1:-1, 3:],
        lambda x: F.pad(x, (1, 0, 0, 0))[..., :-1],
        lambda x: torch.roll(x, (1, 1), (2, 3)),
        lambda x: x.flip(3),
        lambda x: x - x.mean((2, 3), keepdim=True),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: F.dropout(x, 0.0),
    )
    new = w - 1 if a % 10 == 3 else w
    if new < 2:
        return nn.Identity(), shape
    return Fn(f"space {a % 10}", lambda net, x: made[a % 10](x)), (shape[0], h, new)


def _shared(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    """A layer used twice, or one weight used in both directions."""
    c, middle = shape[0], WIDTHS[b % 5]
    if a % 3 == 0:
        return Fn("twice", lambda net, x: net.conv(F.relu(net.conv(x))), conv=nn.Conv2d(c, c, 1)), shape
    if a % 3 == 1:
        layers = {"conv": nn.Conv2d(c, c, 3, padding=1, groups=c), "norm": nn.BatchNorm2d(c)}
        return Fn("twice", lambda net, x: net.norm(net.conv(net.norm(net.conv(x)))), **layers), shape

    def tied(net: Any, x: Tensor) -> Any:
        x = x.permute(0, 2, 3, 1)
        return F.linear(F.gelu(F.linear(x, net.weight)), net.weight.t(), net.bias).permute(0, 3, 1, 2)

    weight, bias = nn.Parameter(torch.randn(middle, c) / c**0.5), nn.Parameter(torch.randn(c))
    return Fn("tied", tied, weight=weight, bias=bias), shape


def _mlp(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    """Tokens: a norm, two linear layers, added; or a gated one."""
    c, middle = shape[0], WIDTHS[a % 5]
    gated = b % 2 == 1
    layers = {
        "norm": nn.LayerNorm(c) if b % 4 < 2 else nn.Identity(),
        "up": nn.Linear(c, middle * (1 + gated)),
        "down": nn.Linear(middle, c),
    }

    def function(net: Any, x: Tensor) -> Any:
        y = net.up(net.norm(x.flatten(2).transpose(1, 2)))
        y = F.silu(y.chunk(2, -1)[0]) * y.chunk(2, -1)[1] if gated else F.gelu(y)
        return x + net.down(y).transpose(1, 2).reshape(x.shape)

    return Fn("mlp", function, **layers), shape


def _attention(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    c, h, w = shape
    layers = {"norm": nn.LayerNorm(c), "attention": Attention(c, _divisor(c, a), b % 4)}

    def plain(net: Any, x: Tensor) -> Any:
        y = net.attention(net.norm(x.flatten(2).transpose(1, 2)))
        return x + y.transpose(1, 2).reshape(x.shape)

    def windows(net: Any, x: Tensor) -> Any:
        n, c, h, w = x.shape
        y = torch.roll(x, (-1, -1), (2, 3)) if b // 4 % 2 else x
        y = y.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        y = net.attention(net.norm(y)).reshape(n, h // 2, w // 2, 2, 2, c).transpose(2, 3)
        return x + y.reshape(n, h, w, c).permute(0, 3, 1, 2)

    whole = h % 2 == 0 and w % 2 == 0 and a // 4 % 2
    return Fn("windows" if whole else "attention", windows if whole else plain, **layers), shape


def _class_token(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    """A learned token and positions, attention, and the token comes back as a scale of the map."""
    c, h, w = shape
    layers = {
        "token": nn.Parameter(torch.randn(1, 1, c)),
        "position": nn.Parameter(torch.randn(1, h * w + 1, c)),
        "attention": Attention(c, _divisor(c, a), b % 4),
    }

    def function(net: Any, x: Tensor) -> Any:
        y = torch.cat([net.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + net.position
        y = y + net.attention(y)
        return y[:, 1:].transpose(1, 2).reshape(x.shape) + y[:, 0][:, :, None, None]

    return Fn("class token", function, **layers), shape


def _response(shape: Shape, a: int, b: int) -> tuple[nn.Module, Shape]:
    """Operations across channels that have no weight of their own."""
    c = shape[0]
    made = (
        lambda x: F.normalize(x, dim=1),
        lambda x: x / (1 + x.norm(dim=(2, 3), keepdim=True).mean(1, keepdim=True)),
        lambda x: x * x.amax(1, keepdim=True).sigmoid(),
        lambda x: x * x.sum(1, keepdim=True),
        lambda x: x + x.softmax(1),
        lambda x: x.flip(1),
        lambda x: x.reshape(len(x), _divisor(c, b), -1, *x.shape[2:]).mean(1).repeat(1, _divisor(c, b), 1, 1),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        lambda x: x.repeat_interleave(2, 1)[:, ::2],
        lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
    )
    return Fn(f"response {a % 10}", lambda net, x: made[a % 10](x)), shape


LEAVES: dict[str, Callable[[Shape, int, int], tuple[nn.Module, Shape]]] = {
    "conv": _conv,
    "strided": _strided,
    "depthwise": _depthwise,
    "transposed": _transposed,
    "norm": _norm,
    "activation": _activation,
    "excite": _excite,
    "scale": _scale,
    "shuffle": _shuffle,
    "pixels": _pixels,
    "space": _space,
    "shared": _shared,
    "mlp": _mlp,
    "attention": _attention,
    "class token": _class_token,
    "response": _response,
}
