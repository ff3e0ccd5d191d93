"""The accuracy of an ONNX file on a data set, through onnxruntime."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import torch

from jstc import data as datasets
from jstc.core import files, processes
from jstc.core.preprocessing import Preprocessing
from jstc.core.progress import Progress, Silent
from jstc.data import DataInfo, Split
from jstc.data.base import Batch
from jstc.data.datasets import refuse_idle_root
from jstc.errors import InputError, RunDirectoryError
from jstc.export.classifier import Classifier, Normalisation, open_classifier, require_fit
from jstc.export.scoring import Score, score
from jstc.ort import sessions
from jstc.ort.sessions import Provider
from jstc.recipe.schema import InputSettings
from jstc.runs.directory import read_recipe
from jstc.runs.manifest import damage_as_input_error
from jstc.runs.workers import EvalTask, broadcast_task
from jstc.train import collectives

__all__ = ["Evaluation", "afterthoughts", "assumptions", "evaluate", "take_part"]

_BATCH_SIZE = 128


class _Opened(NamedTuple):
    """A file, the data set as it comes, how its images are prepared for the file, and its test split."""

    classifier: Classifier
    info: DataInfo
    prepared: Preprocessing
    split: Split


@dataclass(frozen=True)
class _Task:
    """The file, and the data set with its folder and settings; `image_size` None is still to be found.

    `own`: the data set is the one of the file's run, which has settled how images are prepared.
    """

    file: Path
    dataset: str
    data: Path | None
    settings: InputSettings
    own: bool = False


class Evaluation(TypedDict):
    """Result of an evaluation: accuracies are fractions of `images`, the interval holds 95 %.

    `batch` is None for a file that takes any, `undefined` counts the images whose scores are no numbers.
    """

    file: str
    dataset: str
    split: str
    images: int
    images_in_split: int
    provider: str
    threads: int
    batch: int | None
    accuracy: float
    accuracy_interval: list[float]
    top5_accuracy: float | None
    undefined: int
    seconds: float
    notes: list[str]


def evaluate(
    path: Path,
    *,
    dataset: str | None = None,
    data: Path | None = None,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto",
    threads: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Accuracy of a run's exported network, or of any ONNX classifier, on (`limit` images of) a test split.

    A run, and a file in a run's export folder, is evaluated on the run's own data set unless another is
    named. `notes` in the result say what had to be assumed. Raises an `InputError` when the file is no
    classifier for that data set, or the data set has no use for `data`.
    """
    task = _task(path, dataset, data)
    refuse_idle_root(task.dataset, data)
    chosen = sessions.resolve(provider)
    opened = _opened(task, chosen, threads)
    classifier, info, _, split = opened
    _, notes = assumptions(classifier, info, own=task.own)
    enough = min(limit or split.num_images, split.num_images) >= processes.world()
    told = EvalTask(task.file, task.dataset, task.data, task.settings, chosen, threads, limit)
    with broadcast_task(told) if enough else contextlib.nullcontext():
        found = _score(opened, limit, progress or Silent())
    return {
        "file": str(task.file),
        "dataset": task.dataset,
        "split": "test",
        "images": found.images,
        "images_in_split": split.num_images,
        "provider": chosen,
        "threads": threads,
        "batch": classifier.batch,
        "accuracy": found.accuracy,
        "accuracy_interval": list(found.interval),
        "top5_accuracy": found.top5_accuracy,
        "undefined": found.undefined,
        "seconds": round(found.seconds, 3),
        "notes": [*notes, *info.notes, *afterthoughts(found, split.num_images, limit)],
    }


def take_part(told: EvalTask) -> None:
    """Evaluate this process's part of the images, for process 0, which gets the sums."""
    task = _Task(told.file, told.dataset, told.data, told.settings)
    _score(_opened(task, told.provider, told.threads), told.limit, Silent())


def _score(opened: _Opened, limit: int | None, progress: Progress) -> Score:
    """Score of all processes together."""
    classifier, info, prepared, split = opened
    class_of, _ = assumptions(classifier, info)
    images = split.num_images if limit is None else min(limit, split.num_images)
    own = score(
        classifier,
        _batches(split, images, progress, originals=classifier.prepares),
        normalised=Normalisation(prepared.mean, prepared.std),
        class_of=class_of,
        num_classes=info.num_classes,
    )
    return own.added_up(collectives.sums)


def _opened(task: _Task, provider: Provider, threads: int) -> _Opened:
    """The file, and the test split with its images as the file takes them; they fit each other."""
    classifier = open_classifier(task.file, provider=provider, threads=threads)
    size = task.settings.image_size or _size(classifier)
    settings = task.settings.model_copy(update={"image_size": size} | _background(classifier))
    info = datasets.check(task.dataset, root=task.data, settings=settings)
    if classifier.outputs > 1:  # another one may have the scores
        classifier = open_classifier(
            task.file, provider=provider, threads=threads, num_classes=info.num_classes
        )
    prepared = classifier.preprocessing or info.preprocessing
    shape = (info.channels, prepared.height, prepared.width)
    require_fit(classifier, shape=shape, num_classes=info.num_classes)
    found = datasets.load(
        task.dataset,
        root=task.data,
        settings=settings,
        seed=0,
        device=torch.device("cpu"),
        preprocessing=prepared,
    )
    return _Opened(classifier, info, prepared, found.test)


def _background(classifier: Classifier) -> dict[str, object]:
    """The key of the colour under transparent images, where the file says how it prepares images."""
    own = classifier.preprocessing
    return {} if own is None else {"background": "none" if own.background is None else own.background}


def _batches(split: Split, images: int, progress: Progress, *, originals: bool) -> Iterator[Batch]:
    batch_size, part = _BATCH_SIZE * collectives.world(), collectives.part()
    progress.start("eval", -(-images // batch_size), "batch")
    batches, done = (split.originals if originals else split.ordered), 0
    for batch in batches(batch_size, limit=images, part=part):
        yield batch
        done += len(batch[1]) * collectives.world()
        progress.update(-(-min(done, images) // batch_size))
    progress.finish()


def _task(path: Path, dataset: str | None, data: Path | None) -> _Task:
    """Find what is to be evaluated, on what. Raises an `InputError` when the file or the run is not there."""
    if path.suffix == ".onnx":
        if not path.exists():
            raise InputError(f"no file at {path}")
        run = path.absolute().parents[1]
        if path.absolute().parent.name != "export" or not (run / "recipe.yaml").exists():
            return _foreign(path, dataset, data)
        file = path
    else:
        run, file = path, None
    recipe = read_recipe(run)
    if len(recipe.labels) > 1:
        runs = ", ".join(str(run / label) for label in recipe.labels)
        raise InputError(f"{run} has a network for each of its budgets; name one of {runs}")
    file = file or _exported(run)
    name = dataset or recipe.dataset
    root = data or (recipe.data if name == recipe.dataset else None)
    return _Task(file, name, root, recipe.input, own=(name, root) == (recipe.dataset, recipe.data))


def _foreign(path: Path, dataset: str | None, data: Path | None) -> _Task:
    if dataset is None:
        raise InputError(f"on which dataset? Give --dataset NAME to evaluate {path}")
    return _Task(path, dataset, data, InputSettings())


def _exported(run: Path) -> Path:
    """The first file of the export: float32, unless the run has none."""
    plain, result = run / "export" / "model.onnx", run / "export" / "result.json"
    if not plain.exists() and result.exists():
        with damage_as_input_error(run):
            plain = files.inside(run, files.read_json(result)["files"][0]["file"])
    if not plain.exists():
        raise RunDirectoryError(f"{run} has no exported network yet: run `jstc export {run}`")
    return plain


def _size(classifier: Classifier) -> tuple[int, int] | None:
    """Height and width in pixels that the network takes, where the graph or its metadata says so."""
    _, height, width = classifier.shape
    own = classifier.metadata.get("input_size")
    if height is None and isinstance(own, list) and len(own) == 3:
        _, height, width = own
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


# What an evaluation had to assume, and what its figures do not say by themselves.

_ALIKE = 1e-6


def assumptions(
    classifier: Classifier, info: DataInfo, *, own: bool = False
) -> tuple[list[int] | None, list[str]]:
    """The data set's class for each of the file's (None: the same number), and what is to be said.

    `own`: on the data set of its own run, where preparing images as the file says is as it should be.
    """
    class_of, remark = _matched(classifier.labels, info.labels)
    notes = [remark, _of_preprocessing(classifier, info, own=own), _of_outputs(classifier)]
    return class_of, [note for note in notes if note]


def afterthoughts(score: Score, num_images: int, limit: int | None = None) -> list[str]:
    """Notes for when the figures of `limit` of the test split's `num_images` are there."""
    notes = []
    asked = num_images if limit is None else min(limit, num_images)
    if asked < num_images:
        notes.append(f"{asked:,} of the {num_images:,} images of the test split, spread evenly over it")
    if score.images < asked:
        notes.append(f"{asked - score.images:,} of these images cannot be read: they are left out")
    if score.undefined:
        notes.append(f"the scores of {score.undefined:,} images are infinite or undefined: counted as wrong")
    return notes


def _matched(own: Sequence[str] | None, others: Sequence[str]) -> tuple[list[int] | None, str | None]:
    if own is None:
        return None, "the file does not name its classes: class i is taken for the data set's class i"
    names, wanted = ([_plain(label) for label in labels] for labels in (own, others))
    if names == wanted:
        return None, None
    if len(set(names)) == len(names) and set(names) == set(wanted):
        remark = "the file has its classes in another order than the data set: they are matched by name"
        return [wanted.index(name) for name in names], remark
    differ = [i for i, (mine, theirs) in enumerate(zip(names, wanted, strict=False)) if mine != theirs]
    example = f" (class {differ[0]}: '{own[differ[0]]}' and '{others[differ[0]]}')" if differ else ""
    return None, (
        f"the file names {len(own)} classes, and {len(differ)} have other names in the data set{example}: "
        "class i is taken for class i, which may be wrong"
    )


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").split())


def _of_preprocessing(classifier: Classifier, info: DataInfo, *, own: bool) -> str | None:
    figures, whole = classifier.normalisation, classifier.preprocessing
    if classifier.prepares:
        return "the file takes images of any size, and prepares them itself: it got them as they are stored"
    if whole is not None and whole != info.preprocessing:
        told = f"images are prepared as the file says, not as the data set's are: {_differences(whole, info)}"
        return None if own else told
    if classifier.takes_pixels:
        return "the file takes pixels of one size: it got images that were resized as the data set's are"
    if figures is None:
        return "the file does not say how it normalises images: mean and std are the data set's"
    pairs = zip((*figures.mean, *figures.std), (*info.mean, *info.std), strict=True)
    if all(abs(mine - theirs) < _ALIKE for mine, theirs in pairs):
        return None
    return "images are normalised with mean and std of the file, which are not the data set's"


def _differences(own: Preprocessing, info: DataInfo) -> str:
    mine, theirs = own.metadata(), info.preprocessing.metadata()
    found = [f"{key} {_shown(mine[key])} instead of {_shown(theirs[key])}" for key in mine]
    return ", ".join(text for key, text in zip(mine, found, strict=True) if mine[key] != theirs[key])


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _of_outputs(classifier: Classifier) -> str | None:
    if classifier.outputs == 1 or classifier.gives_classes:
        return None
    return f"of the file's {classifier.outputs} outputs, '{classifier.output_name}' has the scores"
