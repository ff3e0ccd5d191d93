"""Layers of a forward on record that can be fitted, and what their results meet: a norm, a sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jstc.channels.reconstruction.walks import Step

__all__ = ["Norm", "Place", "Site", "find", "layer_of", "through", "within"]

_LAYERS = ("linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))
_SMALL_SCALE = 1e-2  # of the mean scale of a norm: what a branch lost elsewhere cannot be mended through less


@dataclass(frozen=True)
class Norm:
    """A batch norm: the names of its statistics and of its weight, and its epsilon."""

    mean: str
    variance: str
    weight: str | None
    bias: str | None
    epsilon: float

    def scale(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What it multiplies its channels with, [channels]."""
        scale = (tensors[self.variance] + self.epsilon).rsqrt()
        return scale if self.weight is None else scale * tensors[self.weight].detach()

    def shift(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What it then adds to them, beyond the mean that it took off before: [channels]."""
        return torch.zeros_like(tensors[self.mean]) if self.bias is None else tensors[self.bias].detach()


@dataclass(frozen=True)
class Site:
    """A layer's one call: its number, the parameters' names, and where its result goes.

    `outputs` is the dimension of the weight that holds the output channels. `norm` is the batch norm that
    alone reads the result; `other` the step whose result is added to that of the layer (or of the norm) and
    is there before it. `bounds` are those to which an activation cuts what has come of it all, (0, infinity)
    for a ReLU: what lies beyond them makes no difference.
    """

    number: int
    weight: str
    outputs: int
    bias: str | None
    norm: Norm | None
    other: int | None
    bounds: tuple[float, float] | None


def find(
    steps: Sequence[Step], whole: Mapping[str, Tensor], own: Mapping[str, Tensor], cut: Sequence[str]
) -> tuple[list[Site], dict[str, str]]:
    """The layers that can be fitted, in order; and layers that lost inputs and cannot, with the reason."""
    names = {id(tensor): name for name, tensor in whole.items()}
    calls: dict[str, list[int]] = {}
    for number, step in enumerate(steps):
        if step.called is not None and step.name in _LAYERS:
            name = names.get(id(step.called.arguments["weight"]))
            if name is not None:
                calls.setdefault(name, []).append(number)
    sites, left_out = [], {}
    for name, numbers in calls.items():
        if len(numbers) > 1:
            left_out[layer_of(name)] = "its weights are used more than once"
        elif not _batched(steps[numbers[0]], own[name]):
            left_out[layer_of(name)] = "its input has no dimension for the batch"
        elif _outputs(steps[numbers[0]], whole[name]) is None:
            left_out[layer_of(name)] = "a transposed convolution in groups of several channels"
        else:
            sites.append(_site(numbers[0], name, steps, whole))
    for name in cut:
        lost_inputs = own[name].dim() > 1 and own[name].shape[1] != whole[name].shape[1]
        if lost_inputs and name not in calls and not _is_beside_layers(name, calls):
            module = name.rpartition(".")[0] or name
            left_out.setdefault(module, "its inputs are not read by a convolution or linear layer")
    first = min((site.number for site in sites if site.weight in set(cut)), default=len(steps))
    return [site for site in sites if site.number >= first], left_out


def _is_beside_layers(parameter: str, layers: Collection[str]) -> bool:
    """Whether the module of a parameter has layers: then that is something else, such as positions."""
    module, _, _ = parameter.rpartition(".")
    return any(name.startswith(f"{module}.") for name in layers)


def _batched(step: Step, weight: Tensor) -> bool:
    dims = len(step.shapes[0])
    return dims >= 2 if step.name == "linear" else dims == weight.dim()


def _outputs(step: Step, weight: Tensor) -> int | None:
    """The dimension of a weight that holds the output channels; None where none does."""
    assert step.called is not None
    if "transpose" not in step.name:
        return 0
    if step.called.arguments.get("groups", 1) == 1:
        return 1
    return 0 if weight.shape[1] == 1 else None


def _site(number: int, weight: str, steps: Sequence[Step], whole: Mapping[str, Tensor]) -> Site:
    called, outputs = steps[number].called, _outputs(steps[number], whole[weight])
    assert called is not None and outputs is not None
    names = {id(tensor): name for name, tensor in whole.items()}
    bias = called.arguments.get("bias")
    norm, last = None, _past_identities(steps, number)
    reader = _only_reader(steps, last)
    if reader is not None and steps[reader].name == "batch_norm" and steps[reader].inputs[0] == last:
        norm = _norm(steps[reader], names)
        last = _past_identities(steps, reader) if norm is not None else last
    other, reader = _added(steps, last, before=number), _only_reader(steps, last)
    if other is not None and reader is not None:
        reader = _only_reader(steps, reader)
    bounds = None if reader is None else steps[reader].bounds
    return Site(number, weight, outputs, None if bias is None else names.get(id(bias)), norm, other, bounds)


def _norm(step: Step, names: Mapping[int, str]) -> Norm | None:
    assert step.called is not None
    given = step.called.arguments
    keys = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (names.get(id(given.get(key))) for key in keys)
    if mean is None or variance is None:
        return None
    return Norm(mean, variance, weight, bias, float(given.get("eps", 1e-5)))


def _only_reader(steps: Sequence[Step], number: int) -> int | None:
    users = set(steps[number].users)
    return users.pop() if len(users) == 1 else None


def _past_identities(steps: Sequence[Step], number: int) -> int:
    """The last of the steps that, in evaluation, only hand on the result of step `number`."""
    while (reader := _only_reader(steps, number)) is not None and "dropout" in steps[reader].name:
        number = reader
    return number


def _added(steps: Sequence[Step], number: int, *, before: int) -> int | None:
    """The step that made what is added to the result of step `number`, if that is there `before`."""
    reader = _only_reader(steps, number)
    if reader is None or steps[reader].name.strip("_") not in {"add", "iadd", "radd"}:
        return None
    step = steps[reader]
    others = [source for source in step.inputs if source != number]
    alike = len(step.inputs) == 2 and len(set(step.shapes)) == 1 and "alpha" not in step.keywords
    return others[0] if alike and len(others) == 1 and 0 <= others[0] < before else None


def layer_of(parameter: str) -> str:
    """The layer's name, by that of its weight."""
    return parameter.removesuffix("weight").rstrip("._") or parameter


class Place:
    """The tensors that the fit of a layer changes, and the norm behind it.

    `scale` [out] is what the norm multiplies with. `constant` is the layer's bias, or else the mean that the
    norm takes off: less of that is more of a constant.
    """

    def __init__(self, site: Site, own: Mapping[str, Tensor]) -> None:
        self.weight, self.scale, self._mean, self._shift = own[site.weight], None, None, None
        self._sign = 1 if site.bias is not None else -1
        if site.norm is not None:
            self._mean = own[site.norm.mean]
            self.scale, self._shift = site.norm.scale(own), site.norm.shift(own)
        self.constant = self._mean if site.bias is None else own[site.bias]

    def passed(self, values: Tensor, other: Tensor | None) -> Tensor:
        """Outputs of the layer [S, out] behind its norm, with `other` added."""
        if self.scale is not None and self._shift is not None and self._mean is not None:
            values = (values - self._mean) * self.scale + self._shift
        return values if other is None else values + other

    def put(self, weight: Tensor, constant: Tensor) -> None:
        """Change the tensors: to a `weight`, and by a constant [out]."""
        self.weight.copy_(weight)
        if self.constant is not None:
            self.constant.add_(self._sign * constant)


def through(lost: Tensor, scale: Tensor) -> Tensor:
    """What has to be added before a norm of that `scale` [out], so that `lost` [S, out] is added after it."""
    enough = scale.abs() > _SMALL_SCALE * scale.abs().mean()
    return torch.where(enough, lost / torch.where(enough, scale, 1), 0)


def within(
    missing: Tensor, now: Tensor, then: Tensor, scale: Tensor | None, bounds: tuple[float, float]
) -> Tensor:
    """The part of `missing` [S, out] that shows where an activation cuts off what lies beyond `bounds`.

    Where the wanted value lies beyond one, any value beyond it is as good (Zhang et al. 2015, Accelerating
    Very Deep Convolutional Networks, section 3.2). `now` and `then` are what the activation is given.
    """
    low, high = bounds
    less, more = (low - now).clamp_max(0), (high - now).clamp_min(0)
    if scale is not None:
        less, more = through(less, scale), through(more, scale)
    return torch.where(then <= low, less, torch.where(then >= high, more, missing))
