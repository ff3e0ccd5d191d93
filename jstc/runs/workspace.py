"""What the stages of one run share, each thing made when it is first needed and then kept.

Importing this loads no torch: a report needs none, and a wrong name is told without. What needs it is
imported where the thing is made.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc import data, models
from jstc.core import processes
from jstc.core.progress import Progress, Silent
from jstc.core.seeds import derive
from jstc.data.images import corrupt_file
from jstc.errors import BudgetError
from jstc.models import Permissions, user_code
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.runs.preprocessing import Settled, settled

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from jstc.channels import ChannelMap
    from jstc.channels.budget import Budget
    from jstc.data import DataInfo, Dataset
    from jstc.latency import Setting
    from jstc.models import ModelSpec
    from jstc.models.pretrained import Pretrained
    from jstc.models.weights import Fitted
    from jstc.runs.kept import Kept
    from jstc.runs.latency_budget import LatencyBudgets, NetworkTimer

__all__ = ["HEAD", "PREDICTIONS", "StageContext", "Workspace"]

PREDICTIONS = "search/latency.json"
"""What a run's predictions of latency depend on, so that the same search goes on with the same."""

HEAD = "given/head.safetensors"
"""The classifier that weights for other classes lack, once it was trained alone."""


class Workspace:
    """Device, data, target network and channel groups of a recipe. Making one costs nothing."""

    def __init__(self, recipe: Recipe, permissions: Permissions | None = None) -> None:
        self.recipe = recipe
        self.permissions = permissions or Permissions()
        self.path: Path | None = None
        self.fresh = False
        self.only_looks = False  # nothing is to be fetched, as nothing is to be done
        self.given: dict[str, Any] | None = None  # figures of the given network, once it was scored
        self.notes: tuple[str, ...] = ()  # on the given weights, once they were read
        self.to_announce: tuple[str, ...] = ()  # stages that the command is for, until it was said
        self.progress: Progress = Silent()
        self.pace: dict[str, float] = {}  # as measured in this process, for what is to come
        self.new_head: tuple[str, ...] = ()  # layers that the weights lack, once these were looked at

    def belongs_to(self, path: Path, progress: Progress | None = None, *, fresh: bool = False) -> None:
        """Say which run directory it is for, whom to tell what takes long, and whether to start over."""
        self.path, self.fresh = path, fresh or self.fresh
        self.progress = progress or self.progress

    def check_names(self) -> None:
        """Look at names, files and folders, without torch. Raises an `InputError` for what is not there."""
        models.check(self.recipe.model)
        self.require_own_code()
        models.require_classifier(self.recipe.model)
        weights = self.recipe.weights_file
        if weights is not None:
            models.weights_file(weights)
        _ = self.info
        if self.recipe.weights_name is not None:
            _ = self.pretrained

    @property
    def starts_trained(self) -> bool:
        """Whether the network has weights from elsewhere before the run."""
        return self.recipe.weights is not None

    @cached_property
    def device(self) -> torch.device:
        """Where training happens."""
        from jstc.train import device

        device.set_threads(self.recipe.threads)
        return device.device(self.recipe.device)

    @cached_property
    def images(self) -> Settled:
        """The data set, and how its images are prepared; raises `DataError` when it cannot be used."""
        recipe = self.recipe
        info = data.check(recipe.dataset, root=recipe.data, settings=recipe.input)
        known = partial(models.published, recipe.model, recipe.weights)
        return settled(info, recipe.input, recipe.weights, known)

    @cached_property
    def info(self) -> DataInfo:
        """Classes and image shape; raises as `images` does."""
        return self.images.info

    @cached_property
    def dataset(self) -> Dataset:
        """The four splits, on the device or read as they are needed."""
        recipe = self.recipe
        found = data.load(
            recipe.dataset,
            root=recipe.data,
            settings=recipe.input,
            seed=recipe.seed,
            device=self.device,
            say=self.progress.message,
            preprocessing=self.info.preprocessing,
        )
        if self.path is not None:
            found.corrupt.keep_in(self.path / corrupt_file(processes.rank()))
        return found

    @cached_property
    def spec(self) -> ModelSpec:
        """All that is needed to build the target network again."""
        info = self.info
        return models.spec(
            self.recipe.model,
            num_classes=len(info.labels),
            in_channels=info.channels,
            height=info.height,
            width=info.width,
            cifar=self.recipe.cifar,
        )

    @cached_property
    def pretrained(self) -> Pretrained:
        """The published weights that the recipe names. Raises an `InputError` where there are none such."""
        from jstc.models import pretrained

        return pretrained.find(self.spec, self.recipe.weights_name or pretrained.DEFAULT)

    @property
    def has_weights(self) -> bool:
        """Whether the weights to start from can be looked at, if there are any: a dry run fetches none."""
        named = self.recipe.weights_name is not None
        return not (named and self.only_looks) or self.pretrained.here

    @cached_property
    def channels(self) -> ChannelMap:
        """Groups, frozen channels and costs of the target network, found without its weights."""
        from jstc import channels

        return channels.analyse(self.skeleton(), self.example_input(), ignore=self.recipe.channels.ignore)

    @cached_property
    def latency(self) -> LatencyBudgets | None:
        """What predicts and measures latencies, where the budget is one: as the run had it, or measured now.

        Raises `InputError` for a provider that does not work here, `BudgetError` for a budget out of reach.
        """
        if self.recipe.latency is None:
            return None
        from jstc.runs.latency_budget import LatencyBudgets, setting_of

        if self.predictions is not None:
            return LatencyBudgets.restored(self.predictions, self.channels, self._network_timer)
        timer = self._network_timer(setting_of(self.recipe.latency_on))
        return LatencyBudgets.measured(self.channels, timer, self.recipe, progress=self.progress)

    @property
    def predictions(self) -> Path | None:
        """The file that a search which goes on takes its predictions of latency from."""
        known = None if self.path is None or self.fresh else self.path / PREDICTIONS
        return known if known is not None and known.is_file() else None

    def _network_timer(self, setting: Setting) -> NetworkTimer:
        from jstc.runs.latency_budget import NetworkTimer, quick_onnx

        write = partial(quick_onnx, shape=self.spec.input_shape)
        return NetworkTimer(self.bare, self.channels, setting, write)

    @property
    def costed(self) -> ChannelMap:
        """The channels with all costs that a budget may be of: with a latency, where the budget is one."""
        return self.channels if self.latency is None else self.latency.channels

    @cached_property
    def budgets(self) -> dict[str, Budget]:
        """The budgets as counts by label, largest first.

        Raises `BudgetError` when no sub-network can meet one, or two are the same.
        """
        from jstc.jst import space

        found = space.resolve_budgets(self.costed, self.recipe)
        limits = {label: [-bound.limit for bound in budget.bounds] for label, budget in found.items()}
        labels = sorted(limits, key=limits.__getitem__)
        for one, other in itertools.pairwise(labels):
            if limits[one] == limits[other]:
                raise BudgetError(f"{one} and {other} are the same budget: leave out one of them")
        return {label: found[label] for label in labels}

    def at(self, label: str) -> Workspace:
        """A workspace of one of the recipe's budgets, with what has been made so far."""
        other = self.with_recipe(self.recipe.at(label))
        other.to_announce = ()  # said of all budgets together, or not at all
        return other

    def with_recipe(self, recipe: Recipe) -> Workspace:
        """A workspace of a recipe with other budgets, with what has been made so far."""
        other = copy.copy(self)
        other.__dict__.pop("budgets", None)
        other.recipe = recipe
        return other

    def predict_latency(self, document: dict[str, Any]) -> None:
        """Predict latencies as another process does, from the `to_dict` of its model."""
        from jstc.runs.latency_budget import LatencyBudgets

        self.__dict__["latency"] = LatencyBudgets.from_dict(document, self.channels, self._network_timer)

    def take_over(self, other: Workspace) -> None:
        """Keep what `other`, which is this one at a budget, has made."""
        for name in ("device", "images", "info", "dataset", "spec", "channels", "latency"):
            if name in other.__dict__:
                self.__dict__[name] = other.__dict__[name]

    def example_input(self, device: str = "cpu") -> Tensor:
        """One image of zeros, [1, C, H, W]."""
        import torch

        return torch.zeros(1, *self.spec.input_shape, device=device)

    def require_own_code(self) -> None:
        """Raise `ModelError` when building the network would run code that the user has not named."""
        user_code.require_trusted(self.recipe.model, named=self.permissions.model)

    @property
    def kept(self) -> Kept | None:
        """What stands in for network and data, in a run that had them from Python."""
        return None

    def keep(self, context: StageContext, network: nn.Module, target: nn.Module) -> None:
        """Keep what stands in for them, once `network` is emitted from `target`, where it will be needed."""

    @property
    def start(self) -> str:
        """In words, what the network starts from."""
        from jstc.models import pretrained

        if self.recipe.weights_name is not None:
            found = self.pretrained
            return f"from {found.told}" + (", to be fetched" if self.only_looks and not found.here else "")
        if self.recipe.weights is not None:
            return f"from {self.recipe.weights}"
        offered = pretrained.offer(self.spec)
        if offered is None:
            return "from scratch (--weights FILE starts from yours)"
        named = models.says_weights(self.recipe.model)
        start = "from scratch, not from the weights of its name" if named else "from scratch"
        return f"{start}; --weights default starts from {offered}"

    def skeleton(self) -> nn.Module:
        """The target network without weights."""
        self.require_own_code()
        return models.build(self.spec, device="meta")

    def new_target(self) -> nn.Module:
        """A target network as the run starts from it, on the CPU: a new classifier was trained alone.

        Raises `RunDirectoryError` where the stage `given` should have left that, and has not.
        """
        model, fitted = self.with_weights()
        if self.path is not None and fitted.new_head and self.recipe.train.head_epochs:
            from jstc.train import head

            head.restore(model, fitted.new_head, self.path / HEAD)
        return model

    def with_weights(self) -> tuple[nn.Module, Fitted]:
        """A target network with the recipe's weights, where it has some, on the CPU; and how they fitted."""
        from jstc.models import weights

        model, fitted, recipe = self.bare(), weights.Fitted(), self.recipe
        if recipe.weights_name is not None:
            found = self.pretrained
            fitted = weights.fit(model, found.tensors(), found.origin, self.spec)
            if not fitted.new_head:
                fitted = replace(fitted, notes=(*fitted.notes, *found.other_names(self.info.labels)))
        elif recipe.weights_file is not None:
            allow = self.permissions.pickle
            fitted = weights.load_weights(model, recipe.weights_file, allow_pickle=allow, spec=self.spec)
        self.new_head, self.notes = fitted.new_head, fitted.notes
        return model, fitted

    def bare(self) -> nn.Module:
        """A target network with random weights, by the seed."""
        self.require_own_code()
        return models.build(self.spec, seed=derive(self.recipe.seed, "init"))

    def structure(self) -> nn.Module:
        """A network of the target's structure on the CPU, whose weights mean nothing."""
        self.require_own_code()
        return models.build(self.spec)


@dataclass(frozen=True)
class StageContext:
    """What a stage function gets: the shared things, the run, its own folder, and whom to tell."""

    workspace: Workspace
    path: Path
    folder: Path
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return self.workspace.recipe

    @property
    def plan(self) -> Plan:
        """What the search has chosen: the one plan of the run. Raises `ChannelError` where there is none."""
        return Plan.load(self.path / "search" / "plan.json")
