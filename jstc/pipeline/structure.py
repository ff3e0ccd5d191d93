"""The channel structure of a network as JSON: groups, layers, what is frozen, and what can be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from jstc.channels import ChannelMap
    from jstc.channels.layout import Placed
    from jstc.recipe import ChannelSettings

__all__ = ["document"]


def document(network: nn.Module, channels: ChannelMap, settings: ChannelSettings) -> dict[str, Any]:
    """What `channels` knows of `network`; `settings` say how far its groups may be cut.

    `flops` and `params` of a group are those that it takes part in: an operation between two groups belongs
    to both. Raises `RecipeError` for settings of groups that are not there.
    """
    from jstc.channels.budget import smallest
    from jstc.channels.limits import Limits

    limits = Limits.from_settings(channels.groups, settings)
    cost, least = channels.cost(), smallest(channels, limits)
    return {
        "flops": cost.flops,
        "params": cost.params,
        "groups": _groups(channels, limits.least.tolist(), limits.quantum.tolist()),
        "frozen": _frozen(network, channels),
        "layers": _layers(network, channels),
        "unknown_operations": dict(channels.unknown_operations),
        "flops_share_cuttable": channels.coverage,
        "params_share_cuttable": channels.params_coverage,
        "smallest_flops": least.flops,
        "smallest_params": least.params,
        "smallest_flops_share": least.flops / cost.flops if cost.flops else 1.0,
        "smallest_params_share": least.params / cost.params if cost.params else 1.0,
    }


def _groups(channels: ChannelMap, least: list[int], steps: list[int]) -> list[dict[str, Any]]:
    whole, units = channels.cost().params, _units(channels)
    return [
        {
            "name": group.name,
            "width": group.width,
            "unit": units[group.name],
            "least": least[index],
            "step": steps[index],
            "flops_share": channels.flops_share[group.name],
            "params": whole - _without(channels, index),
            "layers": list(group.layers),
            "not_like_masking": channels.inexact.get(group.name),
        }
        for index, group in enumerate(channels.groups)
    ]


def _units(channels: ChannelMap) -> dict[str, int]:
    """Positions that one channel of a group takes where it takes fewest: more than one for a head."""
    found: dict[str, int] = {}
    for placed in channels.layout:
        for names, sizes in zip(placed.groups, placed.sizes, strict=True):
            for name, size in zip(names, sizes, strict=True):
                unit = size // channels.widths[name]
                found[name] = min(unit, found.get(name, unit))
    return found


def _without(channels: ChannelMap, index: int) -> int:
    """Parameters of the network if the group had no channels at all."""
    counts = channels.full_counts.copy()
    counts[index] = 0
    return channels.cost_of_counts(counts).params


def _frozen(network: nn.Module, channels: ChannelMap) -> list[dict[str, Any]]:
    outs = {placed.layer: _out_dim(network, placed) for placed in channels.layout if len(placed.shape) > 1}
    return [
        {
            "layer": frozen.layer,
            "kind": _kind(network, frozen.layer),
            "side": "out" if frozen.dim == outs.get(frozen.layer, 0) else "in",
            "channels": frozen.channels,
            "reason": frozen.reason,
        }
        for frozen in channels.frozen
    ]


def _layers(network: nn.Module, channels: ChannelMap) -> list[dict[str, Any]]:
    """Modules with parameters, in the order of the forward.

    `makes` and `reads` are names of groups; `made` says how many of the layer's channels each group has.
    """
    found: dict[str, dict[str, Any]] = {}
    for placed in channels.layout:
        out = _out_dim(network, placed)
        entry = {"name": placed.layer, "kind": _kind(network, placed.layer), "rank": 0, "width": 0}
        layer = found.setdefault(placed.layer, {**entry, "makes": [], "made": [], "reads": []})
        if len(placed.shape) > layer["rank"]:
            layer |= {"rank": len(placed.shape), "width": placed.shape[out]}
        for dim, (names, sizes) in enumerate(zip(placed.groups, placed.sizes, strict=True)):
            side = layer["makes" if dim == out else "reads"]
            for name, size in zip(names, sizes, strict=True):
                if name not in side:
                    side.append(name)
                    layer["made"] += [size] if dim == out else []
    return list(found.values())


def _out_dim(network: nn.Module, placed: Placed) -> int:
    """The dimension along which a parameter makes channels, by the conventions of torch's layers."""
    kind = _kind(network, placed.layer)
    if "ConvTranspose" in kind:
        return min(1, len(placed.shape) - 1)
    words = placed.parameter.rpartition(".")[2].split("_")
    lone = not {words[0], words[-1]} & {"weight", "bias"}  # such as a class token or a table
    return len(placed.shape) - 1 if lone or "Embedding" in kind else 0


def _kind(network: nn.Module, layer: str) -> str:
    try:
        return type(network.get_submodule(layer)).__name__
    except AttributeError:
        return "Parameter"
