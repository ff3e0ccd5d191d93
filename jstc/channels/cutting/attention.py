"""Attention layers of torch and torchvision that can lose heads.

Their own forwards take the inner width of the attention from the width of the embedding, so that no
attribute could tell them of fewer heads. `adapt` gives such a layer a subclass whose forward computes the
same from the shapes of its weights: `head_dim` stays, and there are as many heads as the weights have.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.channels.trace.ids import named_modules

__all__ = ["adapt", "repair_heads"]


def adapt(model: nn.Module, tensors: Collection[str] | None = None) -> None:
    """Replace, in place, the class of every layer known here by one whose heads can be cut.

    With `tensors` only of those that hold one of these tensors, given by qualified name.
    """
    for path, module in named_modules(model):
        kind = type(module)
        forward = _FORWARDS.get(f"{kind.__module__}.{kind.__qualname__}")
        if forward is None or not _adaptable(module):
            continue
        if tensors is None or any(name.startswith(f"{path}.") for name in tensors):
            module.__class__ = _subclass(kind, forward)
            _remember_width(module)


def repair_heads(module: Any) -> None:
    """After a cut: the number of heads of an adapted layer, from the shape of its weights."""
    if not getattr(type(module), "_jstc_adapted", False):
        return
    if isinstance(module, nn.MultiheadAttention):
        module.embed_dim, inner = module.out_proj.weight.shape
        module.num_heads = inner // module.head_dim
    elif hasattr(module, "to_qkv"):
        module.n_heads = module.to_qkv.weight.shape[0] // 3 // module.head_dim
    else:
        module.num_heads = module.qkv.weight.shape[0] // 3 // module.head_dim


def _adaptable(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return module.bias_k is None and not module.add_zero_attn
    return True


def _remember_width(module: Any) -> None:
    if isinstance(module, nn.MultiheadAttention):
        module._qkv_same_embed_dim = False  # torch's fused encoder layer would take the embedding's width
    elif not hasattr(module, "head_dim"):
        module.head_dim = module.qkv.out_features // 3 // module.num_heads  # before the attribute is repaired


_subclasses: dict[type, type] = {}


def __getattr__(name: str) -> type:
    """The adapted class of that name, for pickle, which finds classes by module and name."""
    for path, forward in _FORWARDS.items():
        module, _, kind = path.rpartition(".")
        if name == f"Adapted{kind}":
            return _subclass(getattr(importlib.import_module(module), kind), forward)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _subclass(kind: type, forward: Callable[..., Any]) -> type:
    if kind not in _subclasses:
        own = {"forward": forward, "__module__": __name__, "_jstc_adapted": True}
        _subclasses[kind] = type(f"Adapted{kind.__name__}", (kind,), own)
    return _subclasses[kind]


# -- torch.nn.MultiheadAttention ----------------------------------------------------------------------


def _multihead(  # noqa: PLR0913 - the arguments of torch's own
    self: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # noqa: ARG001 - a hint about `attn_mask`, which says it all
) -> tuple[Tensor, Tensor | None]:
    """Forward of `nn.MultiheadAttention` in which the embedding and the heads may have any width."""
    batched = query.dim() == 3
    inputs = [query, key, value]
    if not batched:
        inputs = [x.unsqueeze(0) for x in inputs]
    elif not self.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    q, k, v = (_heads(x, self.head_dim) for x in _projected(self, inputs, same=query is key and key is value))
    mask = _additive(attn_mask, key_padding_mask, q)
    dropout = self.dropout if self.training else 0.0
    weights = None
    if need_weights:
        out, weights = _weighted(q, k, v, mask, dropout)
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights if batched else weights.squeeze(0)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    out = self.out_proj(out.transpose(1, 2).flatten(2))
    if not batched:
        return out.squeeze(0), weights
    return out if self.batch_first else out.transpose(0, 1), weights


def _projected(self: Any, inputs: list[Tensor], *, same: bool) -> list[Tensor]:
    """Queries, keys and values [batch, positions, heads * width]."""
    if self.in_proj_weight is not None and same:
        return list(F.linear(inputs[0], self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1))
    if self.in_proj_weight is not None:
        weights = self.in_proj_weight.chunk(3)
    else:
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
    biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
    return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]


def _heads(x: Tensor, width: int) -> Tensor:
    """[batch, positions, heads * width] -> [batch, heads, positions, width]."""
    return x.reshape(x.shape[0], x.shape[1], -1, width).transpose(1, 2)


def _additive(mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """One mask to add to the scores [batch, heads, positions, positions]; `True` means: not to be seen."""
    batch, added = q.shape[0], None  # `len` would make the batch a constant in an export
    if mask is not None:
        added = mask if mask.is_floating_point() else _minus_infinity(mask, q.dtype)
        added = added.reshape(batch, -1, *added.shape[1:]) if added.dim() == 3 else added
    if padding is not None:
        hidden = padding if padding.is_floating_point() else _minus_infinity(padding, q.dtype)
        hidden = hidden.reshape(batch, 1, 1, -1)
        added = hidden if added is None else added + hidden
    return added


def _minus_infinity(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, float("-inf"))


def _weighted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    q, k = q * q.shape[-1] ** -0.5, k.transpose(-2, -1)
    if mask is None:
        scores = q @ k
    else:  # one operation, as torch does it: FLOPs are counted by operation
        mask = mask.expand(*q.shape[:-1], k.shape[-1]).flatten(0, 1)
        scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1)).view(*q.shape[:-1], -1)
    weights = torch.softmax(scores, dim=-1)
    weights = F.dropout(weights, dropout) if dropout else weights
    return weights @ v, weights


# -- torchvision: Swin, Swin V2 -------------------------------------------------------------------------


def _shifted_window(self: Any, x: Tensor) -> Tensor:
    """Attention within windows [batch, height, width, embedding], which may be shifted."""
    height, width = x.shape[1:3]
    window = self.window_size
    x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    padded = x.shape[1:3]
    # A window as large as the map need not be shifted.
    shift = [0 if w >= side else s for w, side, s in zip(window, padded, self.shift_size, strict=True)]
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (1, 2))
    windows = _window_attention(self, _windows(x, window), padded, shift)
    x = _from_windows(windows, x.shape[0], padded, window)
    if any(shift):
        x = x.roll((shift[0], shift[1]), (1, 2))
    return x[:, :height, :width, :].contiguous()


def _windows(x: Tensor, window: list[int]) -> Tensor:
    """[batch, height, width, embedding] -> [batch * windows, positions, embedding]."""
    batch, height, width, embedding = x.shape
    x = x.view(batch, height // window[0], window[0], width // window[1], window[1], embedding)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window[0] * window[1], embedding)


def _from_windows(x: Tensor, batch: int, sides: Any, window: list[int]) -> Tensor:
    rows, columns = sides[0] // window[0], sides[1] // window[1]
    x = x.view(batch, rows, columns, window[0], window[1], x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, sides[0], sides[1], x.shape[-1])


def _window_attention(self: Any, x: Tensor, sides: Any, shift: list[int]) -> Tensor:
    q, k, v = (_heads(part, self.head_dim) for part in _window_projection(self, x).chunk(3, dim=-1))
    if hasattr(self, "logit_scale"):  # Swin V2 compares directions
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * torch.clamp(self.logit_scale, max=4.605170185988092).exp()  # of 100
    else:
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
    scores = scores + self.get_relative_position_bias()
    if any(shift):
        mask = _shift_mask(scores, sides, self.window_size, shift)
        per_image = scores.view(-1, mask.shape[0], *scores.shape[1:])
        scores = (per_image + mask.unsqueeze(1)).view(scores.shape)
    weights = F.dropout(torch.softmax(scores, dim=-1), self.attention_dropout, training=self.training)
    x = (weights @ v).transpose(1, 2).flatten(2)
    return F.dropout(self.proj(x), self.dropout, training=self.training)


def _window_projection(self: Any, x: Tensor) -> Tensor:
    bias = self.qkv.bias
    if bias is not None and hasattr(self, "logit_scale"):  # keys of Swin V2 have no bias
        query, key, value = bias.chunk(3)
        bias = torch.cat((query, torch.zeros_like(key), value))
    return F.linear(x, self.qkv.weight, bias)


def _shift_mask(scores: Tensor, sides: Any, window: list[int], shift: list[int]) -> Tensor:
    """[windows, positions, positions]: -100 between positions that are no neighbours before the shift."""
    regions = [_regions(scores, sides[d], window[d], shift[d]) for d in (0, 1)]
    numbers = (regions[0] * 3).unsqueeze(1) + regions[1]
    numbers = numbers.view(sides[0] // window[0], window[0], sides[1] // window[1], window[1])
    numbers = numbers.permute(0, 2, 1, 3).reshape(-1, window[0] * window[1])
    apart = numbers.unsqueeze(1) != numbers.unsqueeze(2)
    return torch.zeros_like(apart, dtype=scores.dtype).masked_fill(apart, -100.0)


def _regions(scores: Tensor, side: int, window: int, shift: int) -> Tensor:
    """0, 1 or 2 by the part of a side that a position comes from: inside, the last window, wrapped around."""
    position = torch.arange(side, device=scores.device)
    return (position >= side - window).to(torch.int64) + (position >= side - shift).to(torch.int64)


# -- torchvision: MaxViT --------------------------------------------------------------------------------


def _relative_positional(self: Any, x: Tensor) -> Tensor:
    """Attention of [batch, partitions, positions, embedding] within each partition."""
    q, k, v = (
        part.reshape(*part.shape[:3], -1, self.head_dim).permute(0, 1, 3, 2, 4)
        for part in self.to_qkv(x).chunk(3, dim=-1)
    )
    scores = torch.einsum("BGHID,BGHJD->BGHIJ", q, k * self.scale_factor)
    weights = torch.softmax(scores + self.get_relative_positional_bias(), dim=-1)
    out = torch.einsum("BGHIJ,BGHJD->BGHID", weights, v)
    return self.merge(out.permute(0, 1, 3, 2, 4).flatten(3))  # type: ignore[no-any-return]


_SWIN = "torchvision.models.swin_transformer.ShiftedWindowAttention"
_FORWARDS: dict[str, Callable[..., Any]] = {
    "torch.nn.modules.activation.MultiheadAttention": _multihead,
    _SWIN: _shifted_window,
    f"{_SWIN}V2": _shifted_window,
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": _relative_positional,
}
