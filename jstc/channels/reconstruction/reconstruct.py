"""Mend a cut network: fit its layers, one after the other, to what the uncut network gave."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from jstc.channels.cutting.slicing import shared
from jstc.channels.reconstruction.layers import Layer
from jstc.channels.reconstruction.least_squares import (
    Equations,
    Fit,
    Rows,
    Sums,
    equations,
    fitted,
    moved,
    refitted,
)
from jstc.channels.reconstruction.sites import Place, Site, find, layer_of, through, within
from jstc.channels.reconstruction.walks import (
    Run,
    Step,
    Walk,
    live_bytes,
    other_calls,
    record,
    require_alike,
)
from jstc.channels.trace.ids import evaluating, named_tensors
from jstc.core.seeds import derive
from jstc.errors import ChannelError

__all__ = ["Explained", "Reconstruction", "examples", "reconstruct"]

_HELD_OUT = 8  # one image in so many chooses the ridge, and says what a fit is worth
_AT_ONCE = 64  # images at most that a forward has: what a held one keeps goes with their number
_ROUNDS = 3  # of fits to what an activation lets through, after the first one
_SHARE_OF_ROUGH, _ROUNDS_OF_ROUGH = 0.25, 1  # of the positions of a whole fit; of its rounds
_FEWEST = 2  # images: one to fit on, and one that is held out
_SHARE = 8  # of the memory, the most that one forward under way may take
_EXACT = 1 - 1e-9  # explained so far: there is nothing to mend


@dataclass(frozen=True)
class Explained:
    """How much of the uncut layer's output a cut layer explains, as it was cut and fitted; 1 is all.

    What an activation behind the layer cuts off anyway does not count as missing.
    """

    before: float
    after: float


@dataclass(frozen=True)
class Reconstruction:
    """What was fitted, by layer in the order of the forward; what was not, and why; on how many images.

    `images` may be fewer than were asked for, for the bound on memory; `memory` is the bytes that these took:
    inputs, results of both networks, sums and samples.
    """

    layers: Mapping[str, Explained]
    left_out: Mapping[str, str]
    images: int
    memory: int


def reconstruct(  # noqa: PLR0913 - see `ChannelMap.reconstruct`
    model: nn.Module,
    small: nn.Module,
    kept: Mapping[str, Sequence[Tensor | None]],
    batches: Iterable[Any],
    *,
    images: int,
    memory: int,
    call: Callable[[nn.Module, Any], Any],
    add_up: Callable[[Sequence[Tensor]], None] | None = None,
    rough: bool = False,
) -> Reconstruction:
    """Fit the layers of `small`, cut out of `model` at `kept`, in place; see `ChannelMap.reconstruct`."""
    model = shared(model, small)
    with evaluating(model), evaluating(small), _exactly():
        own, whole = dict(named_tensors(small)), dict(named_tensors(model))
        first, batches = _started(batches)
        few, runs = _part(first, 0, 2), [_run(call, _part(first, 0, 2))]
        steps, cut_steps = record(model, runs[0]), record(small, runs[0])
        cut = [name for name, tensor in own.items() if tensor.shape != whole[name].shape]
        sites, left_out = find(steps, whole, own, cut)
        room = _Room.of(sites, steps, cut_steps, own, few)
        parts, used = _chosen(batches, room.images(images, memory), room.at_once(memory))
        fitting = _Fitting(own, kept, steps, [examples(part) for part in parts], add_up, rough=rough)
        pairs = _pairs(model, small, [_run(call, part) for part in parts], sites)
        found: dict[str, Explained] = {}
        try:
            for site in sites:
                fit = fitting.fit(site, pairs)
                if fit is not None:
                    found[layer_of(site.weight)] = Explained(fit.before, fit.after)
        finally:
            for pair in pairs:
                for walk in pair:
                    walk.stop()
    return Reconstruction(found, left_out, used, room.bytes(used, room.at_once(memory)))


@contextmanager
def _exactly() -> Iterator[None]:
    """Matrix products in the whole of float32 for the block, whatever was set for training."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


# -- the images ---------------------------------------------------------------------------------------------


def _started(batches: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first batch that has images, and all of them."""
    rest = iter(filter(examples, batches))
    for first in rest:
        return first, itertools.chain([first], rest)
    raise ChannelError("reconstruction needs images: there were no batches")


def _chosen(batches: Iterable[Any], most: int, at_once: int) -> tuple[list[Any], int]:
    """Parts of `at_once` images at most, `most` in all; and how many there are."""
    parts: list[Any] = []
    used = 0
    for batch in batches:
        size = min(examples(batch), most - used)
        parts += [_part(batch, start, min(start + at_once, size)) for start in range(0, size, at_once)]
        used += size
        if used >= most:
            break
    return parts, used


@dataclass(frozen=True)
class _Room:
    """Memory that a reconstruction takes, in bytes: of an image that is held at a layer, with its input, and
    of one whose forward is under way; and what fitting takes, by images and images at once."""

    held: int
    under_way: int
    fits: Sequence[Callable[[int, int], int]]

    @classmethod
    def of(
        cls,
        sites: Sequence[Site],
        steps: Sequence[Step],
        cut_steps: Sequence[Step],
        own: Mapping[str, Tensor],
        few: Any,
    ) -> _Room:
        """By forwards of both networks on record, of `few` images."""
        if any(n >= len(cut_steps) or cut_steps[n].name != steps[n].name for n in (s.number for s in sites)):
            raise other_calls()
        keep = _kept_until(sites)
        whole, cut = live_bytes(steps, keep), live_bytes(cut_steps, keep)
        # The uncut network's result is there, that of the cut one is not yet.
        held = [whole[s.number] + cut[s.number] - cut_steps[s.number].bytes for s in sites]
        inputs = sum(leaf.nbytes for leaf in tree_leaves(few) if isinstance(leaf, Tensor))
        fits = [_fit_bytes(cut_steps[site.number], own[site.weight]) for site in sites]
        number = examples(few)
        return cls(-(-(max(held, default=0) + inputs) // number), -(-max(whole, default=0) // number), fits)

    def at_once(self, memory: int) -> int:
        """Images of one forward."""
        return max(1, min(_AT_ONCE, memory // _SHARE // max(1, self.under_way)))

    def images(self, asked: int, memory: int) -> int:
        """As many of those asked for as there is memory for; some few at least."""
        at_once, number = self.at_once(memory), asked
        while number > _FEWEST and self.bytes(number, at_once) > memory:
            number = max(_FEWEST, number * 15 // 16)
        return number

    def bytes(self, images: int, at_once: int) -> int:
        """What so many images take."""
        most = max((fit(images, min(images, at_once)) for fit in self.fits), default=0)
        return images * self.held + min(images, at_once) * self.under_way + most


def _fit_bytes(step: Step, weight: Tensor) -> Callable[[int, int], int]:
    assert step.called is not None
    layer = Layer.of(step.name, {**step.called.arguments, "weight": weight})
    return lambda images, at_once: layer.bytes(step.shape, images, at_once)


def _run(call: Callable[[nn.Module, Any], Any], batch: Any) -> Run:
    return lambda network: call(network, batch)


def _part(batch: Any, start: int, stop: int) -> Any:
    size = examples(batch)
    if _targets(batch) is not None:
        alike = (isinstance(part, list | tuple | Tensor) and len(part) == size for part in batch)
        return [part[start:stop] if cut else part for part, cut in zip(batch, alike, strict=True)]
    return tree_map_only(
        Tensor, lambda tensor: tensor[start:stop] if tensor.dim() and len(tensor) == size else tensor, batch
    )


def examples(batch: Any) -> int:
    """Examples in a batch: the length of its first tensor, or of a list of a dictionary for each."""
    targets = _targets(batch)
    if targets is not None:
        return len(targets)
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), 0)


def _targets(batch: Any) -> Sequence[Any] | None:
    """A dictionary for each example, beside images that may be of several sizes, as torchvision's detectors
    take them; None for a batch in any other form."""
    for part in batch if isinstance(batch, list | tuple) else ():
        if isinstance(part, list | tuple) and part and all(isinstance(one, dict) for one in part):
            return part
    return None


def _pairs(
    model: nn.Module, small: nn.Module, runs: list[Run], sites: Sequence[Site]
) -> list[tuple[Walk, Walk]]:
    """For each run a forward of both networks: the uncut one shows its results, the cut one its inputs."""
    stops, keep = [site.number for site in sites], _kept_until(sites)
    return [
        (
            Walk(model, run, stops=stops, keep=keep, after=True),
            Walk(small, run, stops=stops, keep=keep, after=False),
        )
        for run in runs
    ]


def _kept_until(sites: Sequence[Site]) -> dict[int, int]:
    """Steps whose results are looked at beside those of a layer, with the number of the last such layer."""
    return {site.other: site.number for site in sites if site.other is not None}


# -- fitting one layer --------------------------------------------------------------------------------------


class _Fitting:
    """Fits the layers of the cut network, whose tensors are `own`, from walks that are held at them."""

    def __init__(
        self,
        own: Mapping[str, Tensor],
        kept: Mapping[str, Sequence[Tensor | None]],
        steps: Sequence[Step],
        sizes: Sequence[int],
        add_up: Callable[[Sequence[Tensor]], None] | None,
        *,
        rough: bool,
    ) -> None:
        self._rough = rough
        self._own, self._kept, self._steps, self._add_up = own, kept, steps, add_up
        ends = torch.tensor([0, *sizes]).cumsum(0)
        self._numbers = [torch.arange(a, b) for a, b in itertools.pairwise(ends.tolist())]
        total = ends[-1:].clone()
        if add_up is not None:
            add_up([total])
        self._images = int(total)

    @torch.no_grad()
    def fit(self, site: Site, pairs: Sequence[tuple[Walk, Walk]]) -> Fit | None:
        """Lead all forwards to the layer, and fit it; None where there is nothing to gain."""
        held = [self._held(site, *pair) for pair in zip(self._numbers, pairs, strict=True)]
        place = Place(site, self._own)
        layer = held[0].layer
        samples = self._images * held[0].positions.shape[1]
        sums = equations(layer, samples, summed=self._add_up is not None)
        self._add_all(site, held, place, sums, None)
        importance = torch.ones_like(sums[0].square) if place.scale is None else place.scale.double().square()
        constant = place.constant is not None
        found = fitted(*sums, constant=constant, importance=importance)
        if found is not None and site.bounds is not None:
            found = replace(found, before=sums[1].explained(sums[1].shown, importance))
            for _ in range(_ROUNDS_OF_ROUGH if self._rough else _ROUNDS):
                self._add_all(site, held, place, sums, found.change)
                found = refitted(found, *sums, constant=constant, importance=importance)
        for uncut, cut in pairs:
            uncut.let_go(site.number)
            cut.let_go(site.number)
        if found is None or found.before >= _EXACT or found.after <= found.before:
            return None
        place.put(layer.changed(found.change[:, :-1]), found.change[:, -1].flatten())
        return found

    def _held(self, site: Site, numbers: Tensor, pair: tuple[Walk, Walk]) -> _Held:
        """Lead both forwards of some images to the layer."""
        uncut, cut = pair
        step, weight = self._steps[site.number], self._own[site.weight]
        theirs = require_alike(uncut.advance(), step, site.number)
        mine = require_alike(cut.advance(), step, site.number)
        assert theirs.output is not None
        given = mine.called.arguments
        # As the cut network calls it: with fewer groups, where it is depthwise.
        layer = Layer.of(step.name, {**given, "weight": weight})
        added = None if site.other is None else (uncut.kept[site.other], cut.kept[site.other])
        seed = derive(0, "reconstruct", site.weight)
        positions = layer.positions(
            theirs.output.shape, self._images, numbers, seed, _SHARE_OF_ROUGH if self._rough else 1.0
        )
        return _Held(numbers, layer, positions, given["input"], given.get("bias"), theirs.output, added)

    def _add_all(
        self,
        site: Site,
        held: Sequence[_Held],
        place: Place,
        sums: tuple[Equations, Equations],
        change: Tensor | None,
    ) -> None:
        """Sums over the images that are fitted on, and over those that are held out.

        With a `change` of what is missing after it; the sums over features are there then.
        """
        for part in sums:
            part.clear()
        for each in held:
            samples = each.samples or self._samples(site, each, place)
            if site.bounds is not None and each.layer.keeps(each.output.shape, self._images):
                each.samples = samples
            for part, own in zip(sums, samples, strict=True):
                _add(part, own, place, site, change)
        if self._add_up is not None:
            again = change is not None
            self._add_up([t for part in sums if isinstance(part, Sums) for t in part.tensors(again=again)])

    def _samples(self, site: Site, held: _Held, place: Place) -> tuple[Rows, Rows]:
        """Samples of the images that are fitted on, and of those that are held out."""
        layer, positions = held.layer, held.positions
        features, made = layer.samples(held.given, positions, held.output.shape)
        wanted, other = self._kept_rows(site, layer.rows(held.output, positions)), None
        if held.bias is not None:
            made += held.bias
        if held.added is not None:
            other = layer.rows(held.added[1], positions)
            lost = self._kept_rows(site, layer.rows(held.added[0], positions)) - other
            wanted += lost if place.scale is None else through(lost, place.scale)
        held_out = (held.numbers % _HELD_OUT == 0).repeat_interleave(positions.shape[1])
        whole = Rows(features, made, wanted, other)
        return whole.at(~held_out), whole.at(held_out)

    def _kept_rows(self, site: Site, rows: Tensor) -> Tensor:
        kept = self._kept.get(site.weight, (None, None))[site.outputs]
        return rows if kept is None else rows.index_select(1, kept.to(rows.device))


def _add(part: Equations, samples: Rows, place: Place, site: Site, change: Tensor | None) -> None:
    """Add samples to sums: of what a change leaves missing, where there is one."""
    made = samples.made if change is None else samples.made + moved(samples.features, change)
    missing = shown = samples.wanted - made
    if site.bounds is not None:
        now, then = (place.passed(values, samples.other) for values in (made, samples.wanted))
        shown = within(missing, now, then, place.scale, site.bounds)
    if change is not None:
        missing = shown
    part.add(samples.features, missing, samples.wanted, shown, again=change is not None)


@dataclass
class _Held:
    """Both forwards of some images, held at a layer: positions [N, P], and what is there at them.

    `added` is what is going to be added to the results of the uncut and the cut network; `samples` are kept
    from round to round where they are few.
    """

    numbers: Tensor
    layer: Layer
    positions: Tensor
    given: Tensor
    bias: Tensor | None
    output: Tensor
    added: tuple[Tensor, Tensor] | None
    samples: tuple[Rows, Rows] | None = None
