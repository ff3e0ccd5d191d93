"""Training a new classifier alone, on a network that is trained but for it: before anything else is done.

The rest of the network stays as it is in evaluation mode, statistics of batch norms included. The loop is
that of all training: continued where it was broken off, the same in several processes, the same by the seed.
With AdamW, whatever trains the network afterwards: its steps do not go by the scale of the features, which
nobody knows before.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from jstc.core.progress import Progress
from jstc.core.seeds import derive
from jstc.errors import RunDirectoryError
from jstc.recipe.schema import Recipe, TrainSettings
from jstc.train import checkpoint, collectives
from jstc.train.fit import fit
from jstc.train.job import Job
from jstc.train.loop import frozen
from jstc.train.schedule import Schedule

if TYPE_CHECKING:
    from jstc.data import Dataset

__all__ = ["epochs_of", "restore", "told", "train"]

_LR = 1e-3
_STEPS, _MOST_EPOCHS = 100, 10  # so many steps are enough for one layer, in so many epochs at most


def epochs_of(recipe: Recipe, dataset: Dataset) -> int:
    """Epochs in which the classifier is trained alone; 0: it is not."""
    asked = recipe.train.head_epochs
    if asked != "auto":
        return asked
    steps = dataset.train.steps(recipe.train.batch_size)
    return min(max(1, -(-_STEPS // steps)), _MOST_EPOCHS)


def train(
    network: nn.Module,
    layers: Collection[str],
    dataset: Dataset,
    *,
    recipe: Recipe,
    path: Path,
    progress: Progress,
) -> None:
    """Train the `layers` of `network`, by name, in place, on the training split without search-validation.

    Writes their tensors to `path`, and beside it a checkpoint and a history; called again, goes on from it.
    Raises as `fit` does.
    """
    head, epochs = _layers(network, layers), epochs_of(recipe, dataset)
    steps = dataset.train.steps(recipe.train.batch_size)
    own = {id(parameter) for parameter in head.parameters()}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in own]
    job = Job(
        network=_HeadAlone(network, head),
        trained=head,
        split=dataset.train,
        settings=_settings(recipe.train),
        schedule=Schedule(_LR, epochs * steps),
        steps_per_epoch=steps,
        seed=derive(recipe.seed, "head"),
        augment=recipe.input.augment,
        num_classes=dataset.info.num_classes,
        checkpoint=recipe.checkpoint,
        identity={"head": list(layers), "weights": str(recipe.weights)},
    )
    with frozen(*rest):
        result = fit(job, directory=path.parent, progress=progress, stage="new classifier")
    if collectives.is_first():
        checkpoint.save(path, head.state_dict(), {"layers": list(layers), "epochs": result.epochs})


def restore(network: nn.Module, layers: Collection[str], path: Path) -> None:
    """Load the classifier that `train` left at `path` into `network`, in place.

    Of several processes the first one reads it, for all. Raises `RunDirectoryError` when it is not there, or
    that of another network.
    """
    try:
        saved = collectives.from_first(lambda: checkpoint.load(path))
    except RunDirectoryError as error:
        raise RunDirectoryError(
            f"the new classifier, which was trained alone, cannot be read: {error.problem}",
            "delete the file if it is there; the command that began the run, given again, trains it again",
        ) from None
    assert saved is not None
    tensors: dict[str, Tensor] = saved[0]
    try:
        _layers(network, layers).load_state_dict(tensors)
    except RuntimeError as error:
        raise RunDirectoryError(f"{path} is the classifier of another network: {error}") from None


def told(path: Path) -> list[str]:
    """Sentences on the classifier that `train` left at `path`; none where there is none."""
    if not path.is_file():
        return []
    known = checkpoint.load(path)[1]
    layers, epochs = " and ".join(f"`{layer}`" for layer in known["layers"]), known["epochs"]
    were = "was" if len(known["layers"]) == 1 else "were"
    return [f"the new {layers} {were} trained alone first, for {epochs} epoch{'s' * (epochs != 1)}"]


def _layers(network: nn.Module, names: Collection[str]) -> nn.ModuleList:
    return nn.ModuleList(network.get_submodule(name) for name in names)


def _settings(settings: TrainSettings) -> TrainSettings:
    plain: dict[str, Any] = {
        "optimizer": "adamw",
        "lr": _LR,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "sync_batchnorm": False,
    }
    return settings.model_copy(update=plain)


class _HeadAlone(nn.Module):
    """The network, of which only the head is ever in training mode."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def train(self, mode: bool = True) -> _HeadAlone:
        """Training or evaluation mode of the head."""
        super().train(False)
        self.training = mode
        self.head.train(mode)
        return self

    def forward(self, images: Tensor) -> Any:
        """What the network gives for images [N, C, H, W]."""
        return self.network(images)
