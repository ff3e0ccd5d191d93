"""The stages that train: baseline, search, finetune."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning  # what torch.jit.TracerWarning is, for type checkers

from jstc import finetune as training
from jstc import soundness
from jstc.channels import Cost
from jstc.channels.budget import Bound
from jstc.channels.trace.ids import tensors_held
from jstc.core import files, processes
from jstc.errors import StageError
from jstc.jst.joint import Search
from jstc.jst.selection import Selection
from jstc.ort import sessions
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.runs.latency_budget import NANO, Fitted
from jstc.runs.manifest import Manifest
from jstc.runs.outline import announce
from jstc.runs.settings import as_begun
from jstc.runs.workers import StageFunction, on_all_ranks
from jstc.runs.workspace import PREDICTIONS, StageContext, Workspace
from jstc.train import collectives, kernels
from jstc.train.device import Numerics, to_device
from jstc.train.loop import Figures, counted, evaluate

__all__ = [
    "accuracy",
    "baseline",
    "batches",
    "count",
    "finetune",
    "images",
    "require_equal",
    "scored",
    "search",
    "target_document",
    "tell_unused",
    "tested",
]

_UNUSED = 0.25  # of the weights: worth a word before the training

# What a stage that calls networks finds out about kernels is said, and kept in its result.


def tested(stage: StageFunction) -> StageFunction:
    """The stage with what was computed in another form, because torch's own was wrong."""

    @wraps(stage)
    def run(context: StageContext) -> dict[str, Any]:
        kernels.begin(context.path)
        figures = stage(context)
        kernels.say(context.progress.message)
        return figures | kernels.document()

    return run


# The test split as the stages use it: a network's accuracy, batches that count, a few images.


def accuracy(context: StageContext, network: nn.Module) -> float:
    """Top-1 accuracy of `network` on the whole test split, in float32."""
    return scored(context, network).accuracy


def scored(context: StageContext, network: nn.Module) -> Figures:
    """Figures of `network` on the whole test split, in float32."""
    settings = context.recipe.train
    placed = to_device(network, settings, context.workspace.device)
    return evaluate(placed, batches(context), Numerics(channels_last=settings.channels_last))


def batches(context: StageContext) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole test split in order, each batch counted as progress of the stage."""
    test, batch_size = context.workspace.dataset.test, context.recipe.train.batch_size
    return counted(test, batch_size, progress=context.progress, stage=context.folder.name)


def images(context: StageContext, count: int) -> Tensor:
    """The first `count` images of a spread over the test split, [N, C, H, W] on the CPU."""
    found = context.workspace.dataset.test.ordered(count, limit=count)
    return torch.cat([batch.cpu() for batch, _ in found])


@on_all_ranks
@tested
def baseline(context: StageContext) -> dict[str, Any]:
    """Train the target network alone, for the comparison."""
    workspace = context.workspace
    announce(context)
    training.train_baseline(
        _target(workspace),
        workspace.dataset,
        recipe=context.recipe,
        directory=context.folder,
        progress=context.progress,
    )
    workspace.dataset.close()
    return {}


@on_all_ranks
@tested
def search(context: StageContext) -> dict[str, Any]:
    """Find a plan at every budget, and train the target network's parts on the way."""
    announce(context)
    workspace, target = context.workspace, context.workspace.new_target()
    if not processes.follows():
        files.write_json(context.path / "target.json", target_document(workspace))
        # Before the training, not after it: the budget is worth nothing if the two counts differ.
        require_equal("target", target, workspace.example_input(), workspace.channels.cost())
        tell_unused(context, target)
        _keep_latency(context)
    joint = Search(
        _placed(target, workspace),
        workspace.costed,
        workspace.dataset,
        recipe=context.recipe,
        budgets=workspace.budgets,
        directory=context.folder,
        progress=context.progress,
    )
    joint.run_rounds()
    figures: dict[str, dict[str, Any]] = {}
    measured: dict[str, Any]
    for label in joint.labels:
        selection, measured = joint.select(label), {}
        if workspace.latency is not None:
            plan, measured = _fitted(context, label, selection)
            selection = joint.with_plan(selection, plan)
        joint.save(label, selection)
        figures[label] = _cost(workspace, selection.plan) | measured
    joint.finish()
    workspace.dataset.close()
    return {"budgets": figures} if len(figures) > 1 else next(iter(figures.values()))


def tell_unused(context: StageContext, target: nn.Module) -> None:
    """Say so where a large part of the weights can learn nothing at this size of images."""
    found = soundness.unreached(target, context.workspace.spec.input_shape)
    if found.share > _UNUSED:
        size = "x".join(map(str, found.input_shape[1:]))
        context.progress.message(
            f"{100 * found.share:.0f} % of the weights see only padding and learn nothing; a "
            f"larger input.image_size than {size}, or a smaller network, would use them"
        )


def _cost(workspace: Workspace, plan: Plan) -> dict[str, Any]:
    cost = workspace.channels.cost(plan)
    return {"flops": cost.flops, "params": cost.params}


@on_all_ranks
@tested
def finetune(context: StageContext) -> dict[str, Any]:
    """Train the chosen sub-network alone."""
    announce(context)  # of a run that goes on after its search
    workspace = context.workspace
    searched = _as_searched(context)
    _tell_length(context, searched)
    training.finetune(
        _target(workspace),
        workspace.channels,
        workspace.dataset,
        recipe=context.recipe,
        source=context.path / "search",
        directory=context.folder,
        progress=context.progress,
        searched=searched,
    )
    workspace.dataset.close()
    planned = searched.finetune.epochs
    return {} if planned == context.recipe.finetune.epochs else {"planned_epochs": planned}


def _tell_length(context: StageContext, searched: Recipe) -> None:
    planned, now = searched.finetune, context.recipe.finetune
    if (planned.epochs, planned.steps_per_epoch) != (now.epochs, now.steps_per_epoch):
        context.progress.message(
            f"finetune: {now.epochs} epochs from the sub-network of the search, which counted on "
            f"{planned.epochs}; the learning rate falls as in a run that was to be so long from the start"
        )


def _as_searched(context: StageContext) -> Recipe:
    """The recipe as the search has read it, finetune's part of which may have been changed since."""
    found = collectives.decided(lambda: getattr(Manifest.load(context.path), "begun_with", {}))
    return as_begun(context.recipe, found)


def target_document(workspace: Workspace) -> dict[str, Any]:
    """The target network, its groups and the budget, or the budgets, as JSON."""
    channels = workspace.channels
    cost = channels.cost()
    groups = [
        {
            "name": g.name,
            "width": g.width,
            "flops_share": channels.flops_share[g.name],
            "layers": list(g.layers),
        }
        for g in channels.groups
    ]
    frozen = [{"layer": f.layer, "channels": f.channels, "reason": f.reason} for f in channels.frozen]
    return {
        "model": workspace.spec.to_dict(),
        "flops": cost.flops,
        "params": cost.params,
        "input": workspace.info.preprocessing.metadata() | {"sentence": workspace.images.sentence},
        **_budgets(workspace),
        **_latency(workspace),
        "groups": groups,
        "frozen": frozen,
        "unknown_operations": channels.unknown_operations,
    }


def _budgets(workspace: Workspace) -> dict[str, Any]:
    found = {label: budget.to_dict() for label, budget in workspace.budgets.items()}
    if len(found) > 1:
        return {"budgets": [{"label": label, **budget} for label, budget in found.items()]}
    return {"budget": next(iter(found.values()))}


def _latency(workspace: Workspace) -> dict[str, Any]:
    """The target network's latency as measured, where the budget is one."""
    if workspace.latency is None:
        return {}
    return {"latency_ms": workspace.latency.model(workspace.channels.full_counts)}


def _target(workspace: Workspace) -> nn.Module:
    return _placed(workspace.new_target(), workspace)


def _placed(target: nn.Module, workspace: Workspace) -> nn.Module:
    return to_device(target, workspace.recipe.train, workspace.device)


# FLOPs and parameters as fvcore counts them: the second opinion on our own cost model.


def count(network: nn.Module, *inputs: Any) -> tuple[int, int]:
    """FLOPs for one example's inputs and parameters, by fvcore. One multiply-add is one FLOP."""
    with warnings.catch_warnings():
        # fvcore traces with torch.jit, which torch has begun to call deprecated.
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=category)
        warnings.filterwarnings("ignore", category=TracerWarning)
        from fvcore.nn import FlopCountAnalysis, jit_handles, parameter_count

        analysis = FlopCountAnalysis(_Tensors(network).eval(), inputs)
        analysis.set_op_handle("aten::_convolution_mode", partial(_named_padding, jit_handles))
        # What fvcore does not count (norms excepted), our cost model does not count either.
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        return int(analysis.total()), int(parameter_count(network)[""])


class _Tensors(nn.Module):
    """A network whose outputs are a plain tuple: torch.jit knows no other objects that hold them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(tensors_held(self.network(*inputs)))


def _named_padding(fvcore: Any, inputs: list[Any], outputs: list[Any]) -> int:
    """A convolution with padding="same" or "valid": fvcore counts it under its other name only."""
    shapes = [fvcore.get_shape(value) for value in (inputs[0], inputs[1], outputs[0])]
    return int(fvcore.conv_flop_count(*shapes))


def require_equal(name: str, network: nn.Module, example_input: Tensor, cost: Cost) -> None:
    """Raise `StageError` unless fvcore counts exactly what the cost model says."""
    flops, params = count(network, example_input)
    if (flops, params) != (cost.flops, cost.params):
        raise StageError(
            f"the counts of the {name} network disagree: fvcore finds {flops:,} FLOPs and {params:,} "
            f"parameters, the cost model {cost.flops:,} and {cost.params:,}; this is a fault of jstc"
        )


# Budgets of latency: the winner is measured, and changed where it misses its budget

_MISSED = 0.05


def _keep_latency(context: StageContext) -> None:
    """Where a budget is one of latency, keep what the predictions depend on in the run.

    Raises `InputError` where the provider of a search that goes on does not work any more.
    """
    latency = context.workspace.latency
    if latency is not None:
        sessions.resolve(latency.model.setting.provider)  # needed at the end
        latency.save(context.path / PREDICTIONS)


def _fitted(context: StageContext, label: str, selection: Selection) -> tuple[Plan, dict[str, Any]]:
    """The plan that meets its budget as measured, and its figures; measured by the first of all processes."""
    latency, budget = context.workspace.latency, context.workspace.budgets[label]
    assert latency is not None

    def measured() -> dict[str, Any]:
        bounds = latency.bounds(context.recipe)
        found = latency.fit(selection.plan, selection.ranking, budget, bounds)
        context.progress.message(_told(found, budget.on("latency")))
        return {"plan": found.plan.to_dict(), "latency": found.to_dict(latency.model.setting)}

    found = collectives.decided(measured)
    return Plan.from_dict(found["plan"]), {"latency": found["latency"]}


def _told(found: Fitted, time: Bound) -> str:
    limit = time.limit / NANO
    figures = f"{found.measured_ms:.4g} ms measured, {found.predicted_ms:.4g} ms predicted"
    text = f"latency: {figures}, of {limit:.4g} ms"
    if found.corrections:
        times = "once" if found.corrections == 1 else f"{found.corrections} times"
        text += f", after the widths were corrected {times}"
    over = found.measured_ms / limit - 1
    if abs(over) <= _MISSED:
        return text
    return f"{text}; that is {100 * abs(over):.0f} % " + ("too much" if over > 0 else "less than allowed")
