"""The stages that train: baseline, search, finetune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jstc import files, ranks
from jstc.pipeline import scoring
from jstc.pipeline.context import StageContext
from jstc.pipeline.latency import Fitting
from jstc.pipeline.team import everywhere
from jstc.pipeline.workspace import Workspace
from jstc.plan import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["baseline", "finetune", "search", "target_document"]


@everywhere
def baseline(context: StageContext) -> dict[str, Any]:
    """Train the target network alone, for the comparison."""
    from jstc import finetune as training

    workspace = context.workspace
    training.train_baseline(
        _target(workspace),
        workspace.dataset,
        recipe=context.recipe,
        directory=context.folder,
        progress=context.progress,
    )
    workspace.dataset.close()
    return {}


@everywhere
def search(context: StageContext) -> dict[str, Any]:
    """Find a plan at every budget, and train the target network's parts on the way."""
    from jstc.pipeline import counting
    from jstc.search.joint import search as search_jointly

    workspace, target = context.workspace, context.workspace.new_target()
    before = _given_weights(context)
    fitting = None
    if not ranks.follows():
        files.write_json(context.path / "target.json", target_document(workspace) | before)
        # Before the training, not after it: the budget is worth nothing if the two counts differ.
        counting.require_equal("target", target, workspace.example_input(), workspace.channels.cost())
        fitting = Fitting.of(context)
    plans = search_jointly(
        _placed(target, workspace),
        workspace.costed,
        workspace.dataset,
        recipe=context.recipe,
        directory=context.folder,
        progress=context.progress,
        adjust=fitting,
    )
    workspace.dataset.close()
    found = {} if fitting is None else fitting.results()
    figures = {label: _cost(workspace, plan) | found.get(label, {}) for label, plan in plans.items()}
    return {"budgets": figures} if len(figures) > 1 else next(iter(figures.values()))


def _cost(workspace: Workspace, plan: Plan) -> dict[str, Any]:
    cost = workspace.channels.cost(plan)
    return {"flops": cost.flops, "params": cost.params}


@everywhere
def finetune(context: StageContext) -> dict[str, Any]:
    """Train the chosen sub-network alone."""
    from jstc import finetune as training

    workspace = context.workspace
    training.finetune(
        _target(workspace),
        workspace.channels,
        workspace.dataset,
        recipe=context.recipe,
        source=context.path / "search",
        directory=context.folder,
        progress=context.progress,
    )
    workspace.dataset.close()
    return {}


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
        **_budgets(workspace),
        **_latency(workspace),
        "groups": groups,
        "frozen": frozen,
        "unknown_operations": channels.unknown_operations,
    }


def _budgets(workspace: Workspace) -> dict[str, Any]:
    found = [
        {"label": label, "metric": budget.metric, "limit": budget.shown_limit, "share": budget.share}
        for label, budget in workspace.budgets.items()
    ]
    if len(found) > 1:
        return {"budgets": found}
    return {"budget": {key: found[0][key] for key in ("metric", "limit", "share")}}


def _latency(workspace: Workspace) -> dict[str, Any]:
    """The target network's latency as measured, where the budget is one."""
    if workspace.latency is None:
        return {}
    return {"latency_ms": workspace.latency.model(workspace.channels.full_counts)}


def _given_weights(context: StageContext) -> dict[str, Any]:
    """What the given weights are worth, for the report; nothing is decided by it."""
    if context.recipe.weights is None:
        return {}
    return {"accuracy_before": scoring.accuracy(context, context.workspace.new_target())}


def _target(workspace: Workspace) -> nn.Module:
    return _placed(workspace.new_target(), workspace)


def _placed(target: nn.Module, workspace: Workspace) -> nn.Module:
    from jstc.train import device

    return device.place(target, workspace.recipe.train, workspace.device)
