"""A layer as a linear map of samples: what it reads at positions of its output, and what it gives there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Layer"]

_SAMPLES_PER_FEATURE = 8
_FEWEST_SAMPLES = 16_384
_KEPT_BYTES = 2**27


@dataclass(frozen=True)
class Layer:
    """A convolution (`spatial` dimensions of 1 to 3) or a linear layer (0), as it was called.

    `weight` is [out, in / groups, *kernel], of a transposed convolution [in, out / groups, *kernel];
    `padding` what stands before the first position of each dimension.
    """

    spatial: int
    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any]) -> Layer:
        """The layer in a call of `linear` or of a convolution, whose arguments are given by name."""
        weight = arguments["weight"]
        spatial = weight.dim() - 2
        if name == "linear":
            return cls(0, weight, (), (), (), 1)

        def each(key: str, default: int) -> tuple[int, ...]:
            value = arguments.get(key, default)
            values = (value,) if isinstance(value, int) else tuple(value)
            return values * spatial if len(values) == 1 else values

        dilation = each("dilation", 1)
        if isinstance(padding := arguments.get("padding", 0), str):
            extents = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            before = tuple(e // 2 if padding == "same" else 0 for e in extents)
        else:
            before = each("padding", 0)
        groups = arguments.get("groups", 1)
        return cls(spatial, weight, each("stride", 1), before, dilation, groups, "transpose" in name)

    @property
    def out(self) -> int:
        """Number of output channels."""
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0]

    @property
    def scaled(self) -> bool:
        """Whether the layer is depthwise: one input a group; each output has one factor."""
        return self.spatial > 0 and self.groups > 1 and self._inputs == 1

    @property
    def features(self) -> int:
        """Fitted numbers of an output channel, without the constant."""
        return 1 if self.scaled else self._taps * self._inputs

    @property
    def _inputs(self) -> int:
        return self.weight.shape[0] // self.groups if self.transposed else self.weight.shape[1]

    @property
    def _taps(self) -> int:
        return math.prod(self.weight.shape[2:])

    def places(self, shape: Sequence[int]) -> int:
        """Number of positions of an output of `shape`: for a linear layer tokens, between first and last."""
        return math.prod(shape[2:] if self.spatial else shape[1:-1])

    def each(self, shape: Sequence[int], images: int, share: float = 1.0) -> int:
        """Positions of each image that are looked at, so that `images` images give samples enough.

        Of as many as are enough, a `share`.
        """
        wanted = share * max(_FEWEST_SAMPLES, _SAMPLES_PER_FEATURE * self.features)
        return min(self.places(shape), max(1, math.ceil(wanted / max(images, 1))))

    def positions(
        self, shape: Sequence[int], images: int, numbers: Tensor, seed: int, share: float = 1.0
    ) -> Tensor:
        """Positions of an output of `shape`, [N, P], of the images with the given `numbers` [N] of `images`.

        A function of the image's number, whatever batch it comes in; all places are taken equally often.
        """
        places, count = self.places(shape), self.each(shape, images, share)
        order = torch.randperm(places, generator=torch.Generator().manual_seed(seed))
        return order[(numbers[:, None] * count + torch.arange(count)) % places]

    def rows(self, output: Tensor, positions: Tensor) -> Tensor:
        """Values of an output of the layer at `positions`: [N x P, channels]."""
        at = positions.to(output.device)
        image = torch.arange(len(at), device=output.device)[:, None]
        if self.spatial:
            return _exact(output.flatten(2)[image, :, at].flatten(0, 1))
        return _exact(output.reshape(len(output), -1, output.shape[-1])[image, at].flatten(0, 1))

    def samples(self, given: Tensor, positions: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features [groups, N x P, features] and, of them, what the weights make: [N x P, out].

        `shape` is that of the output that `positions` are of.
        """
        if self.spatial:
            taken = self._taken(given, positions.to(given.device), shape[2:])  # [N, P, taps, in]
            parted = taken.reshape(positions.numel(), self._taps, self.groups, self._inputs)
            patches = parted.permute(2, 0, 1, 3).reshape(self.groups, positions.numel(), -1)
        else:
            patches = self.rows(given, positions)[None]
        made = torch.bmm(patches, _exact(self._matrix).transpose(1, 2))  # [groups, N x P, out / groups]
        rows = made.transpose(0, 1).flatten(1)
        # One feature for each output channel of a depthwise layer: what it gives.
        return (rows.T[:, :, None] if self.scaled else patches), rows

    @property
    def _matrix(self) -> Tensor:
        """[groups, out / groups, features], a feature for each tap of the kernel and each input."""
        out = self.out // self.groups
        if self.transposed:
            parted = self.weight.reshape(self.groups, self._inputs, out, self._taps)
            return parted.permute(0, 2, 3, 1).flatten(2)
        return self.weight.reshape(self.groups, out, self._inputs, self._taps).transpose(2, 3).flatten(2)

    def _taken(self, given: Tensor, positions: Tensor, sizes: Sequence[int]) -> Tensor:
        """What each tap of the kernel reads of `given` at `positions` [N, P]: [N, P, taps, in]."""
        kernel = self.weight.shape[2:]
        taps = torch.meshgrid(*(torch.arange(k, device=given.device) for k in kernel), indexing="ij")
        starts: list[Tensor] = []
        for size in reversed(sizes):
            starts.insert(0, positions % size)
            positions = positions // size
        at, inside = torch.zeros_like(positions)[..., None], None
        for d, (start, tap, size) in enumerate(zip(starts, taps, given.shape[2:], strict=True)):
            place, exists = self._read(start[..., None], tap.flatten(), d)
            exists &= (place >= 0) & (place < size)
            at = at * size + place.clamp(0, size - 1)
            inside = exists if inside is None else inside & exists
        image = torch.arange(len(at), device=given.device)[:, None]
        found = _exact(given.flatten(2)[image, :, at.flatten(1)])
        assert inside is not None
        return found.mul_(inside.flatten(1)[..., None]).reshape(*at.shape, -1)

    def _read(self, start: Tensor, tap: Tensor, d: int) -> tuple[Tensor, Tensor]:
        """Where a tap reads for an output at `start`, and whether it reads anything there."""
        if self.transposed:
            wide = start + self.padding[d] - tap * self.dilation[d]
            return wide.div(self.stride[d], rounding_mode="floor"), wide % self.stride[d] == 0
        place = start * self.stride[d] - self.padding[d] + tap * self.dilation[d]
        return place, torch.ones_like(place, dtype=torch.bool)

    def changed(self, change: Tensor) -> Tensor:
        """The weight with a fitted `change` [groups, features, out / groups]."""
        if self.scaled:
            factors = (1 + change).reshape(*self.weight.shape[:2], *(1,) * self.spatial)
            return self.weight * factors.to(self.weight.dtype)
        parted = change.reshape(self.groups, self._taps, self._inputs, -1)
        order = (0, 2, 3, 1) if self.transposed else (0, 3, 2, 1)
        moved = parted.permute(order).reshape(self.weight.shape)
        return (self.weight.double() + moved).to(self.weight.dtype)

    def bytes(self, shape: Sequence[int], images: int, at_once: int) -> int:
        """Bytes that a fit takes: sums over `images`, work on them, and samples of `at_once` images.

        `shape` is that of the layer's output.
        """
        groups = self.out if self.scaled else self.groups
        square, cross = (groups * (self.features + 1) * n for n in (self.features + 1, self.out // groups))
        kept = self._sample_bytes(shape, images) * images if self.keeps(shape, images) else 0
        return 8 * (5 * square + 5 * cross) + 3 * self._sample_bytes(shape, images) * at_once + kept

    def keeps(self, shape: Sequence[int], images: int) -> bool:
        """Whether the samples of all `images` are few enough to be kept from round to round."""
        return self._sample_bytes(shape, images) * images <= _KEPT_BYTES

    def _sample_bytes(self, shape: Sequence[int], images: int) -> int:
        """Bytes of the samples of one image."""
        return 4 * self.each(shape, images) * (self._taps * self._inputs * self.groups + 3 * self.out)


def _exact(values: Tensor) -> Tensor:
    """Values in float32 at least: sums over thousands of samples need it."""
    return values if values.dtype == torch.float64 else values.float()
