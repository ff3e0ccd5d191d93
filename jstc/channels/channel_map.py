"""The face of an analysed network: its groups, costs, cuts, gates and simple plans."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jstc.channels.budget import WidthBounds, project, resolve
from jstc.channels.cost import Cost, CostModel, Latency
from jstc.channels.cutting import attributes, channel_gates, slicing
from jstc.channels.cutting.channel_gates import GatedNetwork
from jstc.channels.groups import Frozen, Group
from jstc.channels.operations import Executions, Placed, layout
from jstc.channels.proof import Proved
from jstc.channels.reconstruction.reconstruct import Reconstruction, reconstruct
from jstc.channels.trace.ids import Recorder, named_tensors
from jstc.plan import Plan
from jstc.recipe.amounts import Metric

__all__ = ["ChannelMap"]

Counts = NDArray[np.int64]


class ChannelMap:
    """Groups, frozen channels with reasons, exact cost model, slicing and gates of one network."""

    def __init__(self, proved: Proved, record: Recorder, shapes: Mapping[str, tuple[int, ...]]) -> None:
        structure = proved.structure
        self._structure, self._resized = structure, proved.attributes
        self.groups: tuple[Group, ...] = structure.groups
        self.frozen: tuple[Frozen, ...] = structure.frozen
        self.unknown_operations: dict[str, int] = dict(record.unknown)
        self._cost = CostModel(structure, record.counts, shapes)
        self._sites = channel_gates.gate_sites(structure, record.sites)
        self._record, self._shapes = record, shapes
        self.latency: Latency | None = None

    # -- plans -------------------------------------------------------------------------------------

    @cached_property
    def widths(self) -> dict[str, int]:
        """Full width of each group."""
        return {group.name: group.width for group in self.groups}

    @property
    def full_plan(self) -> Plan:
        """The plan that keeps everything."""
        return Plan.full(self.widths)

    @cached_property
    def full_counts(self) -> Counts:
        """Widths of all groups, in their order."""
        return np.array([group.width for group in self.groups], np.int64)

    @cached_property
    def inexact(self) -> dict[str, str]:
        """Groups whose removal is not the same as masking, with the reason (a norm over the channels ...)."""
        found: dict[str, str] = {}
        for ids, reason in self._record.inexact:
            numbers = self._structure.number(ids)
            for group in self.groups:
                if ((numbers >= group.start) & (numbers < group.start + group.width)).any():
                    found.setdefault(group.name, reason)
        return found

    def shapes(self, plan: Plan | None = None) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by qualified name: of a sub-network, or of the whole without a plan."""
        if plan is None:
            return dict(self._shapes)
        whole = {name: torch.empty(shape, device="meta") for name, shape in self._shapes.items()}
        return {name: tuple(tensor.shape) for name, tensor in self.take(whole, plan).items()}

    # -- cost --------------------------------------------------------------------------------------

    def cost(self, plan: Plan | None = None) -> Cost:
        """FLOPs (one multiply-add is one FLOP) and parameters of a plan; of the whole network without one."""
        return self.cost_of_counts(self.full_counts if plan is None else self.counts(plan))

    def cost_of_counts(self, counts: Counts) -> Cost:
        """Cost of kept counts per group [number of groups]."""
        cost = self._cost(counts)
        if self.latency is None:
            return cost
        return Cost(cost.flops, cost.params, round(1e6 * self.latency(counts)))

    def timed(self, latency: Latency) -> ChannelMap:
        """A copy of this map whose costs have a latency as well."""
        other = copy.copy(self)
        other.latency = latency
        return other

    def counts(self, plan: Plan) -> Counts:
        """Kept counts of a plan, in the order of the groups. Raises `ChannelError` for a foreign plan."""
        slicing.keep_vector(self._structure, plan)
        return np.array([len(plan.kept[group.name]) for group in self.groups], np.int64)

    @cached_property
    def flops_share(self) -> dict[str, float]:
        """Share of the network's FLOPs in operations that a group takes part in."""
        return dict(zip(self.widths, self._cost.share(self.full_counts).tolist(), strict=True))

    def flops_share_of(self, plan: Plan) -> dict[str, float]:
        """Shares of a sub-network's own FLOPs, by group. Raises `ChannelError` for a foreign plan."""
        return dict(zip(self.widths, self._cost.share(self.counts(plan)).tolist(), strict=True))

    @cached_property
    def streams(self) -> frozenset[str]:
        """The groups of residual streams: those whose channels are sums of two results of the forward.

        What is added of the network's own, such as positions or a bias, is no such result.
        """
        made, summed = self._record.executed, np.zeros(self._structure.total, bool)
        for operation in made:
            sources = set(operation.sources)
            if operation.kind == "add" and len(sources) == 2 and all(made[s].live for s in sources):
                for ids in operation.output[1]:
                    numbers = np.zeros(0, np.int64) if ids is None else self._structure.number(ids)
                    summed[numbers[numbers >= 0]] = True
        return frozenset(group.name for group in self.groups if summed[group.start])

    @cached_property
    def coverage(self) -> float:
        """Share of the network's FLOPs that some group can lower."""
        return self._cost.covered(self.full_counts)

    @cached_property
    def params_coverage(self) -> float:
        """Share of the network's parameters that some group can lower."""
        return self._cost.covered(self.full_counts, "params")

    @cached_property
    def layout(self) -> tuple[Placed, ...]:
        """The parameters in the order of the forward, and the groups on each of their dimensions."""
        return layout(self._structure, self._record, self._shapes)

    @cached_property
    def executions(self) -> Executions:
        """The operations in the order of the forward, with the sizes of their tensors for any plan."""
        return Executions(self._structure, self._record.executed)

    # -- cutting -----------------------------------------------------------------------------------

    def slice(self, model: nn.Module, plan: Plan) -> nn.Module:
        """The sub-network: a fresh module of the same class, physically small; gates are not applied."""
        return slicing.cut_module(model, self._indices(plan), self.attributes(plan), self._record.kept)

    def attributes(self, plan: Plan) -> dict[str, int]:
        """Attributes that follow a cut (`blocks.0.attn.num_heads`), as they are in the sub-network."""
        return attributes.values(self._resized, self._structure, slicing.keep_vector(self._structure, plan))

    def map_back(self, small: nn.Module, model: nn.Module, plan: Plan) -> None:
        """Write the tensors of the sub-network back to where `slice` took them from; the rest stays."""
        slicing.put_tensors(dict(named_tensors(small)), dict(named_tensors(model)), self._indices(plan))

    def take(self, tensors: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """Slices of tensors named like the network's parameters, such as an optimiser's momentum."""
        return slicing.take_tensors(tensors, self._indices(plan))

    def put(self, small: Mapping[str, Tensor], tensors: Mapping[str, Tensor], plan: Plan) -> None:
        """The inverse of `take`: write the slices back."""
        slicing.put_tensors(small, tensors, self._indices(plan))

    def mask(self, model: nn.Module, plan: Plan) -> None:
        """Zero, in place, every parameter at the removed channels."""
        slicing.mask_tensors(model, self._structure, plan)

    def reconstruct(  # noqa: PLR0913 - most have defaults that nobody needs to know
        self,
        model: nn.Module,
        small: nn.Module,
        plan: Plan,
        batches: Iterable[Any],
        *,
        images: int = 512,
        memory: int = 4 * 2**30,
        call: Callable[[nn.Module, Any], Any] | None = None,
        add_up: Callable[[Sequence[Tensor]], None] | None = None,
        rough: bool = False,
    ) -> Reconstruction:
        """Mend `small`, cut out of the trained `model` by `plan`, without training: its layers are fitted.

        Every convolution and linear layer, in the order of the forward, is fitted by ridge least squares from
        the cut network's own inputs to the uncut one's outputs at the kept channels (He et al. 2017, Channel
        Pruning), as far as an activation behind it lets them through; where its output is added to another,
        the sum is fitted. Works in place and in evaluation mode; statistics of norms only move by the
        constant that a fit needs.

        `batches` are image tensors, or tuples and lists that begin with one; `call` runs a network on a batch
        where that is not enough. No more of them than `images` images are used, and fewer where that would
        take more than `memory` bytes. `add_up` sums tensors, in place, over processes that have a part of the
        images each. A `rough` fit, of fewer positions and in fewer rounds, is
        enough to compare plans. Raises `ChannelError` for a foreign plan, without images, or when the forward
        makes other calls for other images.
        """
        return reconstruct(
            model,
            small,
            self._indices(plan),
            batches,
            images=images,
            memory=memory,
            call=call or _call,
            add_up=add_up,
            rough=rough,
        )

    def _indices(self, plan: Plan) -> slicing.Indices:
        return slicing.indices(self._structure, plan)

    @cached_property
    def read_by(self) -> dict[str, dict[str, Tensor]]:
        """Layers that read groups: by names of layer and group the positions of the channels in its inputs.

        A group is left out of a layer that reads some of its channels twice, or not at all.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for name, numbers in self._structure.numbers.items():
            layer, _, kind = name.rpartition(".")
            inputs = numbers[1] if kind == "weight" and len(numbers) > 1 else None
            if inputs is None:
                continue
            for group in self.groups:
                at = np.flatnonzero((inputs >= group.start) & (inputs < group.start + group.width))
                if np.array_equal(np.sort(inputs[at]), np.arange(group.start, group.start + group.width)):
                    order = at[np.argsort(inputs[at])]
                    found.setdefault(layer, {})[group.name] = torch.from_numpy(order)
        return found

    # -- gates -------------------------------------------------------------------------------------

    @cached_property
    def gated_groups(self) -> tuple[str, ...]:
        """Names of the groups that have a place for a gate."""
        numbers = np.unique(np.concatenate(list(self._sites.values()) or [np.zeros(0, np.int64)]))
        return tuple(
            g.name for g in self.groups if np.isin(np.arange(g.start, g.start + g.width), numbers).all()
        )

    def gated(self, small: nn.Module, plan: Plan, alpha: Mapping[str, Tensor] | None = None) -> GatedNetwork:
        """The sub-network with gates; `alpha` [kept channels] by group, ones without it."""
        spans, start = {}, 0
        for name in self.widths:  # gates are numbered in the order of the groups
            spans[name] = slice(start, start + len(plan.kept[name]))
            start = spans[name].stop
        device = next((t.device for _, t in named_tensors(small)), torch.device("cpu"))
        ones = torch.ones(start, device=device, dtype=torch.float32)
        network = GatedNetwork(
            small, ones, channel_gates.site_indices(self._structure, self._sites, plan), spans
        )
        if alpha is not None:
            network.load_gates(alpha)
        return network

    def magnitude(self, model: nn.Module) -> dict[str, Tensor]:
        """L2 norm of each channel's incoming and outgoing weights, by group, relative to the group's mean."""
        total = torch.zeros(self._structure.total, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            for dim, numbers in enumerate(self._structure.numbers[name]):
                if numbers is None or parameter.dim() < 2:
                    continue
                other = [d for d in range(parameter.dim()) if d != dim]
                square = parameter.detach().float().square().sum(other).cpu()
                inside = torch.from_numpy(numbers)
                total.index_add_(0, inside[inside >= 0], square[inside >= 0])
        found = {g.name: total[g.start : g.start + g.width].sqrt() for g in self.groups}
        return {name: norm / norm.mean().clamp_min(1e-12) for name, norm in found.items()}

    # -- simple plans ------------------------------------------------------------------------------

    def random_plan(self, *, flops: float | None = None, params: float | None = None, seed: int = 0) -> Plan:
        """A plan of random widths and channels at the budget: shares in (0, 1] or absolute counts.

        Raises `BudgetError` for a bound that no sub-network meets, or a budget that the network itself meets.
        """
        random = np.random.default_rng(seed)
        levels = [np.arange(1, g.width + 1) / g.width / random.uniform(0.3, 1.0) for g in self.groups]
        order = [random.permutation(group.width) for group in self.groups]
        return self._plan(levels, order, {"flops": flops, "params": params})

    def uniform_plan(self, *, flops: float | None = None, params: float | None = None) -> Plan:
        """The plan that keeps the same share of every group, at the budget, the first channels of each.

        Raises `BudgetError` as `random_plan` does.
        """
        levels = [np.arange(1, group.width + 1) / group.width for group in self.groups]
        order = [np.arange(group.width) for group in self.groups]
        return self._plan(levels, order, {"flops": flops, "params": params})

    def _plan(
        self,
        levels: Sequence[NDArray[np.float64]],
        order: Sequence[Counts],
        amounts: Mapping[Metric, float | None],
    ) -> Plan:
        """The plan that keeps, of every group, the first channels in `order` that fit the budget."""
        asked = {metric: amount for metric, amount in amounts.items() if amount is not None}
        bounds = WidthBounds.of(self.groups)
        counts = project(self, levels, resolve(self, asked, bounds), bounds).tolist()
        chosen = zip(self.groups, order, counts, strict=True)
        kept = {group.name: tuple(sorted(first[:count].tolist())) for group, first, count in chosen}
        return Plan(kept, self.widths)


def _call(network: nn.Module, batch: Any) -> Any:
    images = batch if isinstance(batch, Tensor) else batch[0]
    return network(images.clone())  # which some forwards change in place
