"""A run whose network and data are given from Python: its workspace, which looks up no names.

The command line has neither of them. It goes on with such a run by what that has kept: see `kept`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from jstc import models
from jstc.channels.trace.memory import duplicate
from jstc.core import files
from jstc.core.accuracy import Accuracy
from jstc.core.preprocessing import Preprocessing
from jstc.core.progress import Progress
from jstc.data.base import GIVEN, DataInfo, Dataset
from jstc.data.given import GivenData
from jstc.errors import DataError, InputError, JstcError, ModelError, RunDirectoryError, StageError
from jstc.models import ModelSpec, Permissions
from jstc.models.weights import Fitted
from jstc.recipe.schema import Recipe
from jstc.runs import kept
from jstc.runs.directory import read_recipe
from jstc.runs.kept import Kept
from jstc.runs.manifest import Manifest
from jstc.runs.network_check import num_scores
from jstc.runs.preprocessing import Settled, settled
from jstc.runs.workspace import StageContext, Workspace
from jstc.train.device import Numerics, to_device
from jstc.train.loop import evaluate

__all__ = ["GivenWorkspace", "KeptWorkspace", "is_trained", "own_weights"]

_OWN = "given-"
_SCORED = 512  # images, to see whether a network is trained


class GivenWorkspace(Workspace):
    """A workspace of a network and data that are there already; the network may also be a name.

    `labels` are the names of the classes, else those that the data have, else numbers. Raises `DataError` or
    `ModelError` for what cannot be trained on.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module | str,
        data: GivenData,
        *,
        labels: Sequence[str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        _require_kinds(model, labels)
        named = model if isinstance(model, str) else None
        super().__init__(recipe, Permissions(model=named))
        self._model = None if isinstance(model, str) else model
        names = tuple(labels) if labels is not None else data.classes
        self.images = self._settled(data, names)
        self.info = self.images.info
        data.require_labels(self.info.num_classes)
        self.dataset = data.dataset(self.info, recipe.input, self.device)
        if named is None:
            self.spec = ModelSpec(recipe.model, self.info.num_classes, *self.info.input_shape, cifar=False)
        if data.test is data.val:
            say("val_data serves for the search and for the reported accuracy; test_data= is for the latter")

    def _settled(self, data: GivenData, names: Sequence[str] | None) -> Settled:
        """How images are prepared, with as many classes as the network has scores."""
        if self._model is None:
            if names is None:
                raise DataError(
                    "a network that is given by its name is built for the classes of the data, which have no "
                    "names here",
                    "give them: labels=['cat', 'dog']",
                )
            return self._prepared(data, names, 3)
        channels = (1, 3) if data.pixels and data.grey else (3,)
        tried = [self._prepared(data, names or ("?",), number) for number in channels]
        found, scores = _fitting(self._model, tried)
        if names is not None and len(names) != scores:
            raise DataError(
                f"the network gives {scores} scores for an image, and there are {len(names)} classes "
                f"({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})",
                f"give its last layer {len(names)} outputs, or name all {scores} classes: labels=[...]",
            )
        labels = tuple(names or map(str, range(scores)))
        return self._prepared(data, labels, found.info.channels)

    def _prepared(self, data: GivenData, names: Sequence[str], channels: int) -> Settled:
        settings = self.recipe.input
        info = data.info(names, settings, channels=channels)
        if data.pixels:
            if self._model is not None:
                return settled(info, settings, None, lambda: None)
            name, weights = self.recipe.model, self.recipe.weights
            return settled(info, settings, weights, partial(models.published, name, weights))
        idle = [
            key for key in ("image_size", "resize_side", "mean", "std") if getattr(settings, key) is not None
        ]
        size = "x".join(map(str, info.input_shape))
        note = f"; input.{idle[0]} has no effect on them" if idle else ""
        return Settled(info, f"the network gets the tensors of {size} that the Dataset gives{note}")

    def check_names(self) -> None:
        """Look at names and files where there are any: the data are here."""
        if self._model is None or self.has_weights_file:
            self._check_named()

    def _check_named(self) -> None:
        weights = self.recipe.weights
        if self._model is None:
            super().check_names()
        elif weights is not None and not Path(weights).exists():
            raise ModelError(
                f"no weights file at {weights}",
                "weights have names where the network has one: jstc.search('resnet18', weights='default')",
            )

    @property
    def has_weights_file(self) -> bool:
        """Whether the network starts from other weights than those that it came with."""
        weights = self.recipe.weights
        return weights is not None and not str(weights).startswith(_OWN)

    @property
    def start(self) -> str:
        """In words, what the network starts from."""
        if self._model is None or self.has_weights_file:
            return super().start
        if self.recipe.weights is not None:
            return "from the weights that it came with"
        return "as it came, untrained"

    def keep(self, context: StageContext, network: nn.Module, target: nn.Module) -> None:
        """Keep what the command line needs, which has neither network nor data; say where that cannot be."""
        settings, found = self.recipe.export, Kept(context.folder)
        try:
            kept.write(found, network, target, self.dataset, settings, self.images.sentence)
        except StageError as error:
            context.progress.message(f"the command line will not be able to export this run: {error.problem}")

    def skeleton(self) -> nn.Module:
        """The network itself: analysing it leaves it as it is."""
        return super().skeleton() if self._model is None else self._model

    def structure(self) -> nn.Module:
        """A copy of the network."""
        return super().structure() if self._model is None else duplicate(self._model).cpu()

    def bare(self) -> nn.Module:
        """A copy of the network, with the weights that it came with."""
        return super().bare() if self._model is None else self.structure()

    def with_weights(self) -> tuple[nn.Module, Fitted]:
        """A copy of the network, with the weights that it has or those of the recipe's file."""
        return super().with_weights() if self.has_weights_file else (self.bare(), Fitted())


def _require_kinds(model: object, labels: object) -> None:
    if isinstance(model, type) or not isinstance(model, nn.Module | str):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"of type {type(model).__name__}"
        raise ModelError(f"model is {what}: give a network, that is an nn.Module, or the name of one")
    if labels is not None and (isinstance(labels, str) or not isinstance(labels, Sequence)):
        raise DataError(f"labels is of type {type(labels).__name__}: give a list of the classes' names")


def _fitting(network: nn.Module, tried: Sequence[Settled]) -> tuple[Settled, int]:
    """The first preparation of images that the network takes, and its number of scores."""
    failed: Exception | None = None
    for one in tried:
        try:
            return one, num_scores(network, one.info.input_shape)
        except JstcError:
            raise
        except Exception as error:  # whatever a forward raises
            failed = failed or error
    channels, *size = tried[0].info.input_shape
    for other in range(1, 5):
        if _takes(network, (other, size[0], size[1])):
            few = "1 channel" if other == 1 else f"{other} channels"
            raise DataError(f"the network takes {few}, the images have {channels}")
    shape = "x".join(map(str, tried[0].info.input_shape))
    raise ModelError(f"the network's forward failed for two images of {shape}: {failed}")


def _takes(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    try:
        num_scores(network, shape)
    except Exception:  # whatever a forward raises
        return False
    return True


# Is a network that is given trained already? By its score, unless one is told, or the run has begun.


def is_trained(workspace: GivenWorkspace, path: Path, *, fresh: bool, say: Callable[[str], None]) -> bool:
    """Whether the network scores above chance on some images of val_data; a run that goes on knows it."""
    if not fresh and Manifest.load(path) is not None and (path / "recipe.yaml").exists():
        return read_recipe(path).weights is not None
    found = _scored(workspace)
    if found is None:
        return False
    trained = found.doubt is None
    if trained:
        say(
            f"the network is trained already, {found.text} of {found.images} images: the search starts from "
            "its weights"
        )
    else:
        say(
            f"the network is taken for untrained: {found.text} of {found.images} images, as by guessing; if "
            "it is trained, say trained=True, which also looks for what does not fit"
        )
    return trained


def _scored(workspace: GivenWorkspace) -> Accuracy | None:
    """Accuracy on some images; None where the network cannot be asked, which will be told elsewhere."""
    split, settings = workspace.dataset.search_val, workspace.recipe.train
    labels: list[Tensor] = []

    def batches() -> object:
        for images, classes in split.ordered(settings.batch_size, limit=_SCORED):
            labels.append(classes.cpu())
            yield images, classes

    try:
        network = to_device(workspace.new_target(), settings, workspace.device)
        found = evaluate(network, batches(), Numerics(channels_last=settings.channels_last))  # type: ignore[arg-type]
    except InputError:
        raise
    except Exception:
        return None
    counts = torch.bincount(torch.cat(labels), minlength=workspace.info.num_classes)
    chance = max(1 / workspace.info.num_classes, counts.max().item() / found.images)
    return Accuracy(found.accuracy, found.images, chance)


def own_weights(network: nn.Module) -> str:
    """What a recipe says for the weights that `network` came with: other weights are another run."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return _OWN + digest.hexdigest()[:12]


# On the command line.

_TRAINED = ("given", "baseline", "search", "finetune", "slim")


class KeptWorkspace(Workspace):
    """A workspace of such a run, where neither network nor data are: of what was kept.

    Serves the stages in `STAGES`. Raises `RunDirectoryError` for a run that keeps nothing, or is not as far.
    """

    def belongs_to(self, path: Path, progress: Progress | None = None, *, fresh: bool = False) -> None:
        """See `Workspace`."""
        super().belongs_to(path, progress, fresh=fresh)
        if len(self.recipe.budgets) == 1:
            _require_kept(path)

    def check_names(self) -> None:
        """Do nothing: nothing is looked up."""

    @property
    def kept(self) -> Kept:
        """What the run has kept."""
        assert self.path is not None
        return Kept(self.path / "slim")

    @cached_property
    def images(self) -> Settled:
        """How images were prepared."""
        facts = self.kept.facts
        preprocessing = Preprocessing.from_metadata(facts["preprocessing"])
        if preprocessing is None:
            raise RunDirectoryError(f"{self.kept.folder / 'kept.json'} does not say how images are prepared")
        channels = len(preprocessing.mean)
        info = DataInfo(GIVEN, tuple(facts["labels"]), channels, 0, 0, (), ())
        return Settled(info.prepared_as(preprocessing), facts["sentence"])

    @cached_property
    def dataset(self) -> Dataset:
        """The images that are kept: for calibration, and of the test split."""
        found = self.kept.tensors
        count = len(found["calibration"])
        calibration = TensorDataset(found["calibration"], torch.zeros(count, dtype=torch.int64))
        data = GivenData.of(calibration, TensorDataset(found["images"], found["labels"]))
        return data.dataset(self.info, self.recipe.input, self.device)

    @cached_property
    def spec(self) -> ModelSpec:
        """The form of the network's input and output."""
        assert self.path is not None
        return ModelSpec.from_dict(files.read_json(self.path / "target.json")["model"])


def _require_kept(path: Path) -> None:
    manifest = Manifest.load(path)
    stages = manifest.stages if manifest is not None else {}
    undone = [name for name in _TRAINED if name in stages and stages[name].state != "done"]
    again = "make the same call of jstc.search again"
    if undone:
        raise RunDirectoryError(
            f"{undone[0]} of {path} is not done, and its network and data were given from Python", again
        )
    if not (path / "slim" / "kept.json").is_file():
        raise RunDirectoryError(
            f"{path} keeps neither the network nor the data, which were given from Python",
            f"{again}, and export there: result.export()",
        )
