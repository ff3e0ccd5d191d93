"""Mend a cut network: fit its layers, one after the other, to what the uncut network gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from jstc.channels.reconstruction.least_squares import Fit, Layer, Sums, fitted
from jstc.channels.reconstruction.walks import Run, Step, Visit, Walk, peak_bytes, record, require_alike
from jstc.channels.trace.ids import evaluating, named_tensors
from jstc.core.seeds import derive
from jstc.errors import ChannelError

__all__ = ["Explained", "Reconstruction", "reconstruct"]

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")
_HELD_OUT = 8  # one image in so many chooses the ridge, and says what a fit is worth
_EXACT = 1 - 1e-9  # explained so far: there is nothing to mend
_SMALL_SCALE = 1e-2  # of the mean scale of a norm: what a branch lost elsewhere cannot be mended through less


@dataclass(frozen=True)
class Explained:
    """How much of the uncut layer's output a cut layer explains, as it was cut and fitted; 1 is all."""

    before: float
    after: float


@dataclass(frozen=True)
class Reconstruction:
    """What was fitted, by layer in the order of the forward; what was not, and why; on how many images.

    `images` may be fewer than were asked for, so that their results fit `memory` bytes.
    """

    layers: Mapping[str, Explained]
    left_out: Mapping[str, str]
    images: int
    memory: int


@dataclass(frozen=True)
class _Norm:
    """A batch norm: the names of its statistics and of its weight, and its epsilon."""

    mean: str
    variance: str
    weight: str | None
    epsilon: float

    def scale(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What it multiplies its channels with, [channels]."""
        scale = (tensors[self.variance] + self.epsilon).rsqrt()
        return scale if self.weight is None else scale * tensors[self.weight].detach()


@dataclass(frozen=True)
class _Site:
    """A layer's one call: its number, the parameters' names, and where its result goes.

    `norm` is the batch norm that alone reads the result; `other` the step whose result is added to that of
    the layer (or of the norm) and is there before it.
    """

    number: int
    weight: str
    bias: str | None
    norm: _Norm | None
    other: int | None


def reconstruct(
    model: nn.Module,
    small: nn.Module,
    kept: Mapping[str, Sequence[Tensor | None]],
    batches: Iterable[Any],
    *,
    images: int,
    memory: int,
    call: Callable[[nn.Module, Any], Any],
    add_up: Callable[[Sequence[Tensor]], None] | None = None,
) -> Reconstruction:
    """Fit the layers of `small`, cut out of `model` at `kept`, in place; see `ChannelMap.reconstruct`."""
    with evaluating(model), evaluating(small):
        chosen, steps, used, needed = _chosen(model, batches, images=images, memory=memory, call=call)
        own, whole = dict(named_tensors(small)), dict(named_tensors(model))
        cut = [name for name, tensor in own.items() if tensor.shape != whole[name].shape]
        sites, left_out = _sites(steps, whole, own, cut)
        fitting = _Fitting(own, kept, steps, used, add_up)
        pairs = _pairs(model, small, [_run(call, batch) for batch in chosen], sites)
        found: dict[str, Explained] = {}
        try:
            for site in sites:
                fit = fitting.fit(site, pairs)
                if fit is not None:
                    found[_layer_of(site.weight)] = Explained(fit.before, fit.after)
        finally:
            for pair in pairs:
                for walk in pair:
                    walk.stop()
    return Reconstruction(found, left_out, used, needed)


def _layer_of(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter


# -- the images ---------------------------------------------------------------------------------------------


def _chosen(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    images: int,
    memory: int,
    call: Callable[[nn.Module, Any], Any],
) -> tuple[list[Any], list[Step], int, int]:
    """Batches of `images` images in all, or of as many as `memory` is enough for; and a forward on record."""
    chosen: list[Any] = []
    steps: list[Step] = []
    used, each, most = 0, 0, images
    for batch in filter(_size, batches):
        if not steps:
            few = _first(batch, 2)
            steps = record(model, _run(call, few))
            # The cut network holds no more than the uncut one, and both are under way at once.
            each = max(1, 2 * peak_bytes(steps) // _size(few))
            most = min(images, max(2, memory // each))
        part = _first(batch, most - used)
        used += _size(part)
        chosen.append(part)
        if used >= most:
            break
    if not used:
        raise ChannelError("reconstruction needs images: there were no batches")
    return chosen, steps, used, used * each


def _run(call: Callable[[nn.Module, Any], Any], batch: Any) -> Run:
    return lambda network: call(network, batch)


def _first(batch: Any, count: int) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor[:count], batch)


def _size(batch: Any) -> int:
    """Images in a batch: by its first tensor."""
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)), 0)


def _pairs(
    model: nn.Module, small: nn.Module, runs: list[Run], sites: Sequence[_Site]
) -> list[tuple[Walk, Walk]]:
    """For each run a forward of both networks: the uncut one shows its results, the cut one its inputs."""
    stops = [site.number for site in sites]
    keep = {site.other for site in sites if site.other is not None}
    return [
        (
            Walk(model, run, stops=stops, keep=keep, after=True),
            Walk(small, run, stops=stops, keep=keep, after=False),
        )
        for run in runs
    ]


# -- which layers, and what their results meet --------------------------------------------------------------


def _sites(
    steps: Sequence[Step], whole: Mapping[str, Tensor], own: Mapping[str, Tensor], cut: Sequence[str]
) -> tuple[list[_Site], dict[str, str]]:
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
            left_out[_layer_of(name)] = "its weights are used more than once"
        elif not _batched(steps[numbers[0]], own[name]):
            left_out[_layer_of(name)] = "its input has no dimension for the batch"
        else:
            sites.append(_site(numbers[0], name, steps, names))
    for name in cut:
        lost_inputs = own[name].dim() > 1 and own[name].shape[1] != whole[name].shape[1]
        if lost_inputs and name not in calls:
            left_out.setdefault(
                _layer_of(name), "not a convolution or linear layer that is called with its own weights"
            )
    first = min((site.number for site in sites if site.weight in set(cut)), default=len(steps))
    return [site for site in sites if site.number >= first], left_out


def _batched(step: Step, weight: Tensor) -> bool:
    dims = len(step.shapes[0])
    return dims >= 2 if step.name == "linear" else dims == weight.dim()


def _site(number: int, weight: str, steps: Sequence[Step], names: Mapping[int, str]) -> _Site:
    called = steps[number].called
    assert called is not None
    bias = called.arguments.get("bias")
    norm, last = None, _past_identities(steps, number)
    reader = _only_reader(steps, last)
    if reader is not None and steps[reader].name == "batch_norm" and steps[reader].inputs[0] == last:
        norm = _norm(steps[reader], names)
        last = _past_identities(steps, reader) if norm is not None else last
    return _Site(
        number,
        weight,
        None if bias is None else names.get(id(bias)),
        norm,
        _added(steps, last, before=number),
    )


def _norm(step: Step, names: Mapping[int, str]) -> _Norm | None:
    assert step.called is not None
    given = step.called.arguments
    mean, variance, weight = (names.get(id(given.get(k))) for k in ("running_mean", "running_var", "weight"))
    if mean is None or variance is None:
        return None
    return _Norm(mean, variance, weight, float(given.get("eps", 1e-5)))


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


# -- fitting one layer --------------------------------------------------------------------------------------


class _Fitting:
    """Fits the layers of the cut network, whose tensors are `own`, from walks that are held at them."""

    def __init__(
        self,
        own: Mapping[str, Tensor],
        kept: Mapping[str, Sequence[Tensor | None]],
        steps: Sequence[Step],
        images: int,
        add_up: Callable[[Sequence[Tensor]], None] | None,
    ) -> None:
        self._own, self._kept, self._steps, self._add_up = own, kept, steps, add_up
        self._images = images

    @torch.no_grad()
    def fit(self, site: _Site, pairs: Sequence[tuple[Walk, Walk]]) -> Fit | None:
        """Lead all forwards to the layer, and fit it; None where there is nothing to gain."""
        step, weight = self._steps[site.number], self._own[site.weight]
        scale = None if site.norm is None else site.norm.scale(self._own)
        sums: tuple[Sums, Sums] | None = None
        for number, (uncut, cut) in enumerate(pairs):
            theirs = require_alike(uncut.advance(), step, site.number)
            mine = require_alike(cut.advance(), step, site.number)
            # As the cut network calls it: with fewer groups, where it is depthwise.
            layer = Layer.of(step.name, {**mine.called.arguments, "weight": weight})
            sums = sums or (Sums(layer), Sums(layer))
            added = None if site.other is None else (uncut.kept[site.other], cut.kept[site.other])
            self._add(site, layer, number, theirs, mine, added, scale, sums)
        assert sums is not None
        if self._add_up is not None:
            self._add_up([tensor for part in sums for tensor in part.tensors])
        importance = torch.ones_like(sums[0].square) if scale is None else scale.double().square()
        fit = fitted(*sums, constant=site.bias is not None or site.norm is not None, importance=importance)
        if fit is None or fit.before >= _EXACT:
            return None
        weight.copy_(layer.changed(fit.change))
        if site.bias is not None:
            self._own[site.bias].add_(fit.constant)
        elif site.norm is not None:
            # A norm takes its mean off: less of that is a constant more.
            self._own[site.norm.mean].sub_(fit.constant)
        return fit

    def _add(
        self,
        site: _Site,
        layer: Layer,
        number: int,
        theirs: Visit,
        mine: Visit,
        added: tuple[Tensor, Tensor] | None,
        scale: Tensor | None,
        sums: tuple[Sums, Sums],
    ) -> None:
        """Add one batch's samples: the last images of it to those held out."""
        output = theirs.output
        assert output is not None
        images = len(output)
        random = torch.Generator().manual_seed(derive(0, "reconstruct", site.weight, number))
        positions = layer.positions(output.shape, self._images, random)
        rows = self._kept_rows(site, layer.rows(output, positions))
        features, made = layer.samples(mine.called.arguments["input"], positions)
        if (bias := mine.called.arguments.get("bias")) is not None:
            made = made + bias
        wanted = rows
        if added is not None:
            lost = self._kept_rows(site, layer.rows(added[0], positions)) - layer.rows(added[1], positions)
            wanted = rows + (lost if scale is None else _through(lost, scale))
        fitted_on = (images - max(1, images // _HELD_OUT)) if images > 1 else int(number % _HELD_OUT > 0)
        cut = fitted_on * len(positions)
        for part, where in zip(sums, (slice(None, cut), slice(cut, None)), strict=True):
            part.add(features[:, where], (wanted - made)[where], wanted[where])

    def _kept_rows(self, site: _Site, rows: Tensor) -> Tensor:
        kept = self._kept.get(site.weight, (None,))[0]
        return rows if kept is None else rows.index_select(1, kept.to(rows.device))


def _through(lost: Tensor, scale: Tensor) -> Tensor:
    """What has to be added before a norm of that `scale` [out], so that `lost` [S, out] is added after it."""
    enough = scale.abs() > _SMALL_SCALE * scale.abs().mean()
    return torch.where(enough, lost / torch.where(enough, scale, 1), 0)
