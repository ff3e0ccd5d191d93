"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), in whichever form they are at hand. No torch here."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jstc.core import files
from jstc.core.torchvision_import import import_torchvision
from jstc.data.base import DataInfo, Source, background_of, side_of
from jstc.data.images import Pixels
from jstc.data.sources import parquet
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["LABELS", "WHERE", "check", "load"]

_SIDE = 32
_MOST_BYTES = 256 * 2**20  # CIFAR-100 has 150 MB in one file
_PYTHON = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_BINARY = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
_BINARY_FILES = {
    "cifar10": (tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)),
    "cifar100": (("train.bin",), ("test.bin",)),
}
_LABEL_BYTES = {"cifar10": 1, "cifar100": 2}  # cifar100: the coarse label, then the fine one
_ARRAY_NAMES = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
                ("_codecs", "encode")}  # fmt: skip
_MEAN = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}
_STD = {"cifar10": (0.2470, 0.2435, 0.2616), "cifar100": (0.2673, 0.2564, 0.2762)}

WHERE = {
    name: f"a folder with {_PYTHON[name]}/ or {_BINARY[name]}/ (from www.cs.toronto.edu/~kriz/cifar.html), "
    "or with train.parquet and test.parquet"
    for name in _PYTHON
}

_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""

LABELS = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(_CIFAR100.split()),
}


def check(name: str, root: Path, settings: InputSettings) -> DataInfo:
    """Find the files. Raises `DataError` when they are in none of the known forms."""
    form, folder = _find(name, root)
    if form == "binary":
        _check_binary(name, folder)
    elif form == "parquet":
        parquet.find(root, "test")
        found = parquet.check(root, settings.model_copy(update={"image_size": None}))
        if found.num_classes > len(LABELS[name]) or (found.height, found.width) != (_SIDE, _SIDE):
            raise DataError(
                f"dataset '{name}': the parquet files in {root} have {found.num_classes} classes at "
                f"{found.height}x{found.width}; expected {len(LABELS[name])} at 32x32 (or: dataset parquet)"
            )
    side, by = side_of(settings, _SIDE)
    return DataInfo(
        name,
        LABELS[name],
        3,
        side,
        side,
        _MEAN[name],
        _STD[name],
        size_from=by,
        background=background_of(settings),
    )


def load(name: str, root: Path, settings: InputSettings) -> Source:
    """All images, to be kept in memory."""
    info = check(name, root, settings)
    form, folder = _find(name, root)
    if form == "parquet":
        encoded, encoded_test = (
            parquet.images(root, part, info.labels, settings) for part in ("train", "test")
        )
        return Source(info, encoded, encoded_test, memory_size=(_SIDE, _SIDE))
    train, test = (_read_binary if form == "binary" else _read_python)(name, folder)
    return Source(info, train, test, memory_size=(_SIDE, _SIDE))


def _find(name: str, root: Path) -> tuple[str, Path]:
    for form, folders in (("python", _PYTHON), ("binary", _BINARY)):
        for folder in (root / folders[name], root):
            if folder.name == folders[name] and folder.is_dir():
                return form, folder
    if parquet.has_files(root):
        return "parquet", root
    raise DataError(f"dataset '{name}': nothing known in {root}; expected {WHERE[name]}")


def _check_binary(name: str, folder: Path) -> None:
    record = _LABEL_BYTES[name] + 3 * _SIDE * _SIDE
    for file in (path for names in _BINARY_FILES[name] for path in names):
        path = folder / file
        if path.exists():
            files.require_regular(path)
        size = path.stat().st_size if path.exists() else 0
        if size == 0 or size % record or size > _MOST_BYTES:
            raise DataError(f"dataset '{name}': {path} is missing or incomplete; unpack the archive again")


def _read_binary(name: str, folder: Path) -> Iterator[Pixels]:
    head = _LABEL_BYTES[name]
    for names in _BINARY_FILES[name]:
        raw = np.concatenate([np.fromfile(folder / file, dtype=np.uint8) for file in names])
        records = raw.reshape(-1, head + 3 * _SIDE * _SIDE)
        images = np.ascontiguousarray(records[:, head:]).reshape(-1, 3, _SIDE, _SIDE)
        yield Pixels(images, records[:, head - 1].astype(np.int64))


def _read_python(name: str, folder: Path) -> Iterator[Pixels]:
    # These archives are pickles by the dataset's authors.
    datasets = import_torchvision("torchvision.datasets")
    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    for listed in (kind.train_list, kind.test_list):
        batches = [_published(name, folder / file, md5) for file, md5 in listed]
        pixels = np.concatenate([np.asarray(b["data"]) for b in batches]).reshape(-1, 3, _SIDE, _SIDE)
        labels = [label for b in batches for label in b.get("labels", b.get("fine_labels"))]
        yield Pixels(np.ascontiguousarray(pixels), np.array(labels, dtype=np.int64))


def _published(name: str, path: Path, md5: str) -> Any:
    """What a batch holds, if it is the published one by its MD5; and even then arrays are all it may make."""
    data = files.read_bytes(path, limit=_MOST_BYTES) if path.exists() else b""
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise DataError(
            f"dataset '{name}': the files in {path.parent} are missing or not the published ones (MD5); "
            "unpack the archive again"
        )
    with warnings.catch_warnings():
        # numpy's opinion on how these pickles, which are older than it, were written
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numbers, texts, lists and arrays; any other name in a file is refused, not imported."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`. Raises `DataError`."""
        if (module.replace("._core.", ".core."), name) not in _ARRAY_NAMES:
            raise DataError(f"a batch of CIFAR names {module}.{name}, which is no array; it is not loaded")
        return super().find_class(module, name)
