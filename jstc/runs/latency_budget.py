"""Budgets of latency: calibrated on whole networks before a search, and the winner measured after it."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from jstc.channels import ChannelMap
from jstc.channels.budget import Budget, WidthBounds, project, resolve, smallest, uniform_counts
from jstc.channels.trace.memory import duplicate
from jstc.channels.trace.tracer import arguments
from jstc.core import files
from jstc.core.progress import Progress
from jstc.errors import InputError, RunDirectoryError
from jstc.export import write_onnx
from jstc.export.any_network import export_onnx
from jstc.latency import Calibration, LatencyModel, Setting, Table
from jstc.models.outputs import ScoresOnly
from jstc.ort import sessions, statistics
from jstc.ort.opened import open_file, prepare
from jstc.plan import Plan
from jstc.recipe.schema import LatencySettings, Recipe
from jstc.train import collectives

__all__ = ["NANO", "Fitted", "LatencyBudgets", "NetworkTimer", "of_any", "quick_onnx", "setting_of"]

_ROUNDS = 3
_CLOSE = 0.02
_OVER, _UNDER, _AIM = 1.01, 0.96, 0.985
NANO = 1_000_000


def setting_of(settings: LatencySettings) -> Setting:
    """Where the times are to be measured. Raises `InputError` for a provider that does not work here."""
    provider = sessions.resolve(settings.provider)
    return Setting.here(provider, batch=settings.batch, threads=settings.threads)


@dataclass(frozen=True)
class Fitted:
    """A plan after it was measured: predicted and measured milliseconds, and how often it was changed."""

    plan: Plan
    predicted_ms: float
    measured_ms: float
    target_ms: float
    corrections: int

    def to_dict(self, setting: Setting) -> dict[str, Any]:
        """Document for the results of the search."""
        found = {name: round(getattr(self, name), 6) for name in ("predicted_ms", "measured_ms", "target_ms")}
        where = {"provider": setting.provider, "batch": setting.batch, "threads": setting.threads}
        return {**found, **where, "corrections": self.corrections}


class LatencyBudgets:
    """The latency of one target network's sub-networks: predicted before, measured after a search."""

    def __init__(self, channels: ChannelMap, model: LatencyModel, timer: NetworkTimer) -> None:
        self.channels, self.model, self.timer = channels.timed(model), model, timer

    @classmethod
    def measured(
        cls, channels: ChannelMap, timer: NetworkTimer, recipe: Recipe, *, progress: Progress
    ) -> LatencyBudgets:
        """Predict from the table of this machine, completed where need be, and from a few whole networks."""
        table = Table(timer.setting)
        model = LatencyModel.measured(
            channels.executions, table, full=channels.full_counts, progress=progress
        )
        found = cls(channels, model, timer)
        found._calibrate(recipe, progress)
        return found

    @classmethod
    def restored(
        cls, path: Path, channels: ChannelMap, new_timer: Callable[[Setting], NetworkTimer]
    ) -> LatencyBudgets:
        """Read what a search that has begun predicts with, the target network's time included.

        Raises `RunDirectoryError` for a file that is damaged.
        """
        try:
            document = files.read_json(path)
            model = LatencyModel.from_dict(document, channels.executions, full=channels.full_counts)
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            text = f"{path} is damaged or of another network ({error!r}); use --fresh, or another directory"
            raise RunDirectoryError(text) from None
        timer = new_timer(model.setting)
        # The budget is on file in the milliseconds of then: measured now, a busier target would shift it.
        timer.resume(model(channels.full_counts))
        return cls(channels, model, timer)

    @classmethod
    def from_dict(
        cls, document: dict[str, Any], channels: ChannelMap, new_timer: Callable[[Setting], NetworkTimer]
    ) -> LatencyBudgets:
        """Predict as another process does, from the `to_dict` of its model."""
        model = LatencyModel.from_dict(document, channels.executions, full=channels.full_counts)
        return cls(channels, model, new_timer(model.setting))

    def save(self, path: Path) -> None:
        """Write what `restored` reads."""
        files.write_json(path, self.model.to_dict())

    def _calibrate(self, recipe: Recipe, progress: Progress) -> None:
        """Measure the target network, the smallest, and one at each budget until it is as predicted."""
        bounds, full = self.bounds(recipe), self.channels.full_counts
        progress.start("latency", _ROUNDS + 1, "network")
        [least_ms] = self.timer.milliseconds([self._plan(bounds.least)])
        ends = Calibration().with_point(self.model.total(full), self.timer.target_ms)
        self.model.calibration = ends = ends.with_point(self.model.total(bounds.least), least_ms)
        for done in range(1, _ROUNDS + 1):
            progress.update(done)
            counts = self._at_budgets(recipe, bounds)
            predicted = np.array([self.model(c) for c in counts])
            found = self.timer.milliseconds([self._plan(c) for c in counts])
            self.model.calibration = ends
            for each, ms in zip(counts, found, strict=True):
                self.model.calibration = self.model.calibration.with_point(self.model.total(each), ms)
            if (np.abs(np.array(found) / predicted - 1) < _CLOSE).all():
                break
        progress.finish()

    def bounds(self, recipe: Recipe) -> WidthBounds:
        """How far each group may be cut: `auto` steps are the provider's."""
        return WidthBounds.from_settings(self.channels.groups, recipe.channels, block=self.model.block)

    def _at_budgets(self, recipe: Recipe, bounds: WidthBounds) -> list[NDArray[np.int64]]:
        """Counts of uniform plans at the budgets. Raises `BudgetError` for one that none can meet."""
        budgets = [resolve(self.channels, asked, bounds) for asked in recipe.budgets]
        return [uniform_counts(self.channels, budget, bounds) for budget in budgets]

    def _plan(self, counts: NDArray[np.int64]) -> Plan:
        """The first channels of every group."""
        kept = {g.name: tuple(range(n)) for g, n in zip(self.channels.groups, counts.tolist(), strict=True)}
        return Plan(kept, self.channels.widths)

    def fit(
        self, plan: Plan, order: Sequence[NDArray[np.int64]], budget: Budget, bounds: WidthBounds
    ) -> Fitted:
        """Measure a plan; where it misses its budget as measured, widen or narrow all its groups alike.

        Not wider than the budget's other bounds allow. `order` has the channels of every group, the first to
        keep first.
        """
        tried: list[Fitted] = []
        time = budget.on("latency")
        least = time.of(smallest(self.channels, bounds))
        for corrections in range(_ROUNDS + 1):
            predicted = self.model(self.channels.counts(plan))
            [measured] = self.timer.milliseconds([plan])
            tried.append(Fitted(plan, predicted, measured, self.timer.target_ms, corrections))
            used = budget.shares(self.channels.cost(plan)) | {"latency": measured * NANO / time.limit}
            if used["latency"] <= _OVER and max(used.values()) >= _UNDER:
                break
            aim = max(least, int(_AIM * time.limit * predicted / measured))
            following = self._scaled(plan, order, budget.with_limit("latency", aim), bounds)
            if following.hash in {each.plan.hash for each in tried}:
                break
            plan = following
        return min(tried, key=lambda each: _miss(each.measured_ms * NANO / time.limit))

    def _scaled(
        self, plan: Plan, order: Sequence[NDArray[np.int64]], budget: Budget, bounds: WidthBounds
    ) -> Plan:
        groups = self.channels.groups
        levels = [np.arange(1, g.width + 1) / len(plan.kept[g.name]) for g in groups]
        counts = project(self.channels, levels, budget, bounds).tolist()
        chosen = zip(groups, order, counts, strict=True)
        kept = {group.name: tuple(sorted(first[:count].tolist())) for group, first, count in chosen}
        return Plan(kept, self.channels.widths)


def _miss(ratio: float) -> float:
    """How bad it is to be at this share of the budget: above is worse than as far below."""
    return 4 * (ratio - 1) if ratio > 1 else 1 - ratio


# Whole networks through onnxruntime, beside the target network, before anything of them is trained.

_OPSET = 18
_SECONDS = 3.0


class NetworkTimer:
    """Milliseconds of sub-networks of one target network, in onnxruntime, from files that `write` makes.

    All are timed by turns with the target network, and what is told is their share of its time when it was
    first measured: so figures of different moments compare, whatever else the machine did. The share is that
    of the calmest runs. The weights are those of `new_target`: the time does not depend on them.
    """

    def __init__(
        self,
        new_target: Callable[[], nn.Module],
        channels: ChannelMap,
        setting: Setting,
        write: Callable[[nn.Module, Path], None],
    ) -> None:
        self.setting = setting
        self._new_target, self._channels, self._write = new_target, channels, write
        self._first: float | None = None
        self._folder: Path | None = None

    @property
    def target_ms(self) -> float:
        """Median time of the target network, measured once."""
        if self._first is None:
            self.milliseconds([])
        assert self._first is not None
        return self._first

    def resume(self, target_ms: float) -> None:
        """Go on from an earlier process that measured the target network first."""
        self._first = target_ms

    def milliseconds(self, plans: Sequence[Plan]) -> list[float]:
        """Time of each sub-network of `plans`, for a batch."""
        files = self._files(plans)
        seconds = self._seconds(files)
        if self._first is None:
            self._first = 1e3 * float(np.median(seconds[:, 0]))
        return [self._first * share for share in statistics.calm_shares(seconds)[1:].tolist()]

    def _files(self, plans: Sequence[Plan]) -> list[Path]:
        """ONNX files of the target network and of the plans."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="jstc-latency-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        target = self._folder / "target.onnx"
        network = self._new_target().eval()
        if not target.exists():
            self._write(network, target)
        found = [self._folder / f"{number}.onnx" for number in range(len(plans))]
        for path, plan in zip(found, plans, strict=True):
            self._write(self._channels.slice(network, plan), path)
        return [target, *found]

    def _seconds(self, files: Sequence[Path]) -> NDArray[np.float64]:
        """Seconds of every timing, [rounds, files]."""
        provider, threads = self.setting.provider, self.setting.threads
        opened = [open_file(p.stem, p, provider=provider, threads=threads) for p in files]
        runs = [prepare(each, self.setting.batch) for each in opened]
        statistics.warm_up(runs, seconds=_SECONDS)
        return statistics.interleaved_seconds(runs, seconds=_SECONDS * len(runs))


def quick_onnx(network: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    """Write a file to be timed, not to be used; `shape` is [C, H, W].

    By torch's older exporter, which takes a tenth of the time and gives the same layers; where it cannot, as
    for the export itself. Raises `StageError` where that cannot either.
    """
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": axes}
    try:
        _export_quickly(ScoresOnly(network).eval(), (torch.zeros(2, *shape),), path, **names)
    except Exception:  # whatever it says: it is not the exporter that counts
        write_onnx(network, path, shape=shape, opset=_OPSET, metadata={})  # type: ignore[arg-type]


def quick_onnx_of_any(network: nn.Module, path: Path, *, example: Any) -> None:
    """Write a file of any network to be timed, with the sizes of `example`, a batch of one.

    Raises `StageError` where no exporter of torch can write it.
    """
    network = network.eval().cpu()
    args, kwargs = arguments(example)
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), (args, kwargs))
    try:
        _export_quickly(network, (*args, kwargs), path)  # the last one, a dictionary, has the keywords
    except Exception:  # whatever it says: it is not the exporter that counts
        export_onnx(network, (args, kwargs), path, batch=1, tolerance=math.inf)


def _export_quickly(network: nn.Module, given: tuple[Any, ...], path: Path, **names: Any) -> None:
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, given, str(path), dynamo=False, opset_version=_OPSET, **names)


def of_any(
    model: nn.Module, channels: ChannelMap, example: Any, recipe: Recipe, *, known: Path, progress: Progress
) -> LatencyBudgets:
    """Latencies of any network's sub-networks: as the file `known` has them, or measured now, by process 0.

    Raises `InputError` for a provider that does not work here or another batch than one, `BudgetError` for a
    budget out of reach.
    """
    if recipe.latency_on.batch != 1:
        raise InputError("latency_on.batch: a network of any kind is timed on its example, a batch of one")
    write = partial(quick_onnx_of_any, example=example)

    def new_timer(setting: Setting) -> NetworkTimer:
        return NetworkTimer(lambda: duplicate(model), channels, setting, write)

    own: list[LatencyBudgets] = []

    def document() -> dict[str, Any]:
        if known.is_file():
            own.append(LatencyBudgets.restored(known, channels, new_timer))
        else:
            timer = new_timer(setting_of(recipe.latency_on))
            own.append(LatencyBudgets.measured(channels, timer, recipe, progress=progress))
        return own[0].model.to_dict()

    decided = collectives.decided(document)
    return own[0] if own else LatencyBudgets.from_dict(decided, channels, new_timer)
