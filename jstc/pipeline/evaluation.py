"""The accuracy of an exported network on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jstc.errors import InputError, RunDirectoryError
from jstc.recipe import InputSettings

if TYPE_CHECKING:
    from jstc.data import DataInfo

__all__ = ["evaluate"]

_BATCH_SIZE = 128


def evaluate(
    path: Path,
    *,
    dataset: str | None = None,
    data: Path | None = None,
    provider: Literal["auto", "cpu", "cuda"] = "auto",
) -> dict[str, Any]:
    """Top-1 accuracy of a run's exported network, or of any ONNX classifier, on a test split.

    A run is evaluated on its own data set unless another is named. Raises an `InputError` when the file is
    no classifier for that data set.
    """
    file, name, root, settings = _what(path, dataset, data)
    import torch

    from jstc import data as datasets
    from jstc import export, ort

    chosen = ort.resolve(provider)
    info = datasets.check(name, root=root, settings=settings)
    _fits(file, info)
    loaded = datasets.load(name, root=root, settings=settings, seed=0, device=torch.device("cpu"))
    score = export.accuracy(
        file, loaded.test.ordered(_BATCH_SIZE), num_classes=info.num_classes, provider=chosen
    )
    return {
        "file": str(file),
        "dataset": name,
        "split": "test",
        "images": loaded.test.num_images,
        "provider": chosen,
        "accuracy": score,
    }


def _what(path: Path, dataset: str | None, data: Path | None) -> tuple[Path, str, Path | None, InputSettings]:
    """The file, and the data set with its root and settings."""
    if path.suffix == ".onnx":
        if not path.is_file():
            raise InputError(f"no file at {path}")
        if dataset is None:
            raise InputError(f"on which dataset? Give --dataset NAME to evaluate {path}")
        return path, dataset, data, InputSettings(image_size=_side(path))
    from jstc.pipeline.run_directory import read_recipe

    recipe = read_recipe(path)
    if len(recipe.labels) > 1:
        runs = ", ".join(str(path / label) for label in recipe.labels)
        raise InputError(f"{path} has a network for each of its budgets; name one of {runs}")
    file = path / "export" / "model.onnx"
    if not file.exists():
        raise RunDirectoryError(f"{path} has no exported network yet: run `jstc export {path}`")
    name = dataset or recipe.dataset
    root = data or (recipe.data if name == recipe.dataset else None)
    side = recipe.input.image_size or _side(file)
    return file, name, root, recipe.input.model_copy(update={"image_size": side})


def _side(file: Path) -> int | None:
    """The side in pixels that the network takes, where the file says so."""
    from jstc import ort

    shape = ort.signature(ort.open_session(file), file).input_shape
    return shape[-1] if shape[-1] == shape[-2] else None


def _fits(file: Path, info: DataInfo) -> None:
    from jstc import export

    export.check_fits(file, shape=info.input_shape, num_classes=info.num_classes)
