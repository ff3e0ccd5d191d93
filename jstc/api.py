"""jstc from Python: `jstc.search` on a network and data in memory, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch import nn

from jstc.core import processes
from jstc.core.progress import Progress
from jstc.data.base import GIVEN
from jstc.data.given import GivenData
from jstc.errors import StageError
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands, directory, workers
from jstc.runs.given import GivenWorkspace, is_trained, own_weights
from jstc.runs.search_result import SearchResult, SearchResults, command, interruptions, results, shown

__all__ = ["SearchResult", "SearchResults", "search"]

Bound = float | str
AnyRecipe = Recipe | Mapping[str, Any] | Path | str
Settings = Mapping[str, Any] | Sequence[str]

_STAGES = ("baseline", "search", "finetune", "slim")


@overload
def search(
    model: nn.Module | str,
    train_data: Any,
    val_data: Any,
    test_data: Any = None,
    *,
    out: str | Path,
    flops: Bound | None = None,
    params: Bound | None = None,
    latency: Bound | None = None,
    recipe: AnyRecipe | None = None,
    weights: str | Path | None = None,
    trained: bool | None = None,
    labels: Sequence[str] | None = None,
    settings: Settings = (),
    fresh: bool = False,
    progress: bool | Progress = True,
) -> SearchResult: ...


@overload
def search(
    model: nn.Module | str,
    train_data: Any,
    val_data: Any,
    test_data: Any = None,
    *,
    out: str | Path,
    flops: Bound | Sequence[Bound] | None = None,
    params: Bound | Sequence[Bound] | None = None,
    latency: Bound | Sequence[Bound] | None = None,
    recipe: AnyRecipe | None = None,
    weights: str | Path | None = None,
    trained: bool | None = None,
    labels: Sequence[str] | None = None,
    settings: Settings = (),
    fresh: bool = False,
    progress: bool | Progress = True,
) -> SearchResults: ...


def search(
    model: nn.Module | str,
    train_data: Any,
    val_data: Any,
    test_data: Any = None,
    *,
    out: str | Path,
    flops: Bound | Sequence[Bound] | None = None,
    params: Bound | Sequence[Bound] | None = None,
    latency: Bound | Sequence[Bound] | None = None,
    recipe: AnyRecipe | None = None,
    weights: str | Path | None = None,
    trained: bool | None = None,
    labels: Sequence[str] | None = None,
    settings: Settings = (),
    fresh: bool = False,
    progress: bool | Progress = True,
) -> SearchResult | SearchResults:
    """Search the best sub-network of a classifier within a budget, and train it.

        result = jstc.search(model, train_data, val_data, flops=0.5, out="runs/mine")
        result.network                                  # an ordinary, smaller nn.Module, trained
        result.export("deploy", precisions=["fp32", "int8"])     # ONNX files, each verified

    The same call again continues what is in `out`, also after Ctrl-C. Under torchrun every process makes it.

    Arguments:
        model: An nn.Module that gives scores [N, classes] for images [N, C, H, W], which is left as it is; or
            a name of `jstc models`, built for the classes of the data.
        train_data, val_data: Map-style Datasets of images and class numbers, as pairs or as dictionaries with
            "image" and "label". Float tensors [C, H, W] reach the network as they are; Pillow images, uint8
            tensors [C, H, W] and uint8 arrays [H, W, C] are resized and normalised as the recipe's `input`
            section says, and Pillow images augmented. The search chooses by val_data.
        test_data: What reported accuracies are measured on; left out: val_data.
        out: The run directory.
        flops: The budget: a share of the network's FLOPs (0.5), or a count ("500M"; one multiply-add is one).
            A list of several shares one search, and gives a SearchResults, by label.
        params, latency: Bounds on parameters, or on onnxruntime's time ("2ms", or a share). Whatever is given
            of flops, params and latency is met together; one of them can be a list.
        recipe: All other settings: a dictionary, a jstc.Recipe, a YAML file, or the name of a recipe that
            comes with jstc. The model and the data in it are left out of account.
        weights: A file of weights to start from, or their name where `model` is a name.
        trained: Whether the weights of `model` are trained: the search then starts from what they are worth,
            and the network is scored first. Left out: they are where they score above chance.
        labels: Names of the classes in the order of their numbers; left out: the Dataset's `classes`.
        settings: Recipe keys that win over the recipe: {"search.rounds": 20} or ["search.rounds=20"].
        fresh: Start over instead of continuing.
        progress: False for silence; or an object with the methods of jstc.core.progress.Progress.

    Returns a SearchResult, or for several budgets a SearchResults.

    Raises an InputError of jstc.errors for what is wrong with what is given, before any training: DataError
    tells of items, ModelError of the network, BudgetError of a budget out of reach, RecipeError of settings,
    RunDirectoryError of `out`. A StageError tells what could not be done. KeyboardInterrupt: it was
    interrupted, and is saved.
    """

    def made(own: str | None = None) -> Recipe:
        budgets: dict[str, object] = {"flops": flops, "params": params, "latency": latency}
        name = model if isinstance(model, str) else _name(model)
        given = {"model": name, "dataset": GIVEN, "weights": own or weights}
        return loading.from_python(recipe, settings, budgets | given)

    first, path = made(), Path(out)
    with shown(progress) as told, interruptions():
        data = GivenData.of(train_data, val_data, test_data, say=told.message)
        workspace = GivenWorkspace(first, model, data, labels=labels, say=told.message)
        if isinstance(model, nn.Module) and first.weights is None and not processes.follows():
            if trained is None:
                trained = is_trained(workspace, path, fresh=fresh, say=told.message)
            workspace.recipe = made(own_weights(model)) if trained else first
        _run(workspace, path, fresh=fresh, progress=told)
        return results(path, workspace, progress)


def _run(workspace: GivenWorkspace, path: Path, *, fresh: bool, progress: Progress) -> None:
    """Search, finetune and slim; as one of several processes, what process 0 asks for."""
    if processes.follows():
        if commands.follow(workspace):
            raise StageError("process 0 has broken off, and says why")
        workspace.recipe = directory.read_recipe(path)
        return
    with workers.as_rank_zero():
        commands.run(
            workspace.recipe,
            out=path,
            only=_STAGES,
            workspace=workspace,
            fresh=fresh,
            command=command(path),
            progress=progress,
        )


def _name(model: nn.Module) -> str:
    return f"{type(model).__module__}:{type(model).__qualname__}"
